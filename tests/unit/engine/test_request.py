"""The arguments of `average` and the request that they make are one list."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_engine import OutputError, average, combine_checkpoints
from ladle_engine.pipeline.request import Request
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

DECIDING = {"ckpt_dir": "a", "val_set": "b"}


def test_the_request_has_the_arguments_of_average_with_their_defaults() -> None:
    arguments = inspect.signature(average).parameters
    fields = dataclasses.fields(Request)
    # These become the task of a request, and what stands at the place of its paths.
    of_functions = ["model", "loss", "data", "metrics"]
    assert [field.name for field in fields] == [name for name in arguments if name not in of_functions]
    for field in fields:
        if field.name == "val_set":
            continue
        expected = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        assert arguments[field.name].default is expected or arguments[field.name].default == expected, field.name


def settings_with(**more: Any) -> dict[str, Any]:
    request = Request(**{**DECIDING, "output": "out", **more})
    return request.deciding_settings(ToyTask(plain_net))


@pytest.mark.parametrize(
    "more",
    [
        {"method": "twa"}, {"method_options": {"steps": 3}}, {"task_options": {"batch_size": 4}}, {"pattern": "step-*"},
        {"last": 3}, {"steps": (1, 2)}, {"train_set": "c"}, {"train_set_use": "batchnorm"}, {"select_fraction": 0.4},
        {"metric": "loss"}, {"dtype": "float16"}, {"seed": 1}, {"precision": "int8"}, {"ckpt_dir": "other"},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_the_result_is_among_the_settings(more: dict[str, Any]) -> None:
    assert settings_with(**more) != settings_with()


@pytest.mark.parametrize(
    "more",
    [
        {"output": "elsewhere"}, {"device": torch.device("cpu")}, {"placement": "replicated"}, {"state_dir": "state"},
        {"provenance": {"job_id": "x"}}, {"commit": False}, {"max_shard_bytes": 1 << 20},
        {"output_format": "dcp"}, {"curve_earlier": "result"},
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_decide_the_result_is_not(more: dict[str, Any]) -> None:
    assert settings_with(**more) == settings_with()


def test_paths_may_differ_between_ranks() -> None:
    one, other = (Request(ckpt_dir=path, val_set=path, output="out") for path in ("here", "there"))
    task = ToyTask(plain_net)
    assert one.deciding_settings(task) != other.deciding_settings(task)
    assert one.deciding_settings(task, with_paths=False) == other.deciding_settings(task, with_paths=False)


@pytest.mark.parametrize("name", ["ckpt_dir", "val_set", "output", "train_set", "state_dir", "curve_earlier"])
def test_what_is_no_path_is_refused_by_name(name: str) -> None:
    several = [] if name == "ckpt_dir" else ["a", "b"]
    for value in (several, 3, *([None] if name in ("ckpt_dir", "val_set", "output") else [])):
        with pytest.raises(ValueError, match=f"`{name}` must be a path,.* but is"):
            Request(**{**DECIDING, "output": "out", name: value})


def test_a_state_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    with pytest.raises(OutputError, match="`state_dir=` must be a folder that can be made") as caught:
        average(
            tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net),
            state_dir=tmp_path / "state",
        )  # fmt: skip
    assert caught.value.code == "results-unwritable"


def test_an_output_where_nothing_can_be_made_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, plain_net)
    with pytest.raises(OutputError, match="`output=` must be a folder that can be made"):
        combine_checkpoints(tmp_path, output="/proc/ladle")
