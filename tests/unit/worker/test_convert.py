"""A job's options reach the engine, and the engine's words come back as the job's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ladle import Client, submit
from ladle.cli.wording import in_flags
from ladle_contracts import JobSpec
from ladle_contracts.command_flags import FLAG_OF
from ladle_contracts.spec_fields import SPEC_FIELDS, SpecField
from ladle_engine import average, combine_checkpoints, convert_checkpoints, rebuild
from ladle_engine.testing import check_task
from ladle_worker.convert import NOT_FOR_THE_ENGINE, PATHS, argument_of, average_arguments, in_spec_words
from ladle_worker.well_formed import well_formed

REPOSITORY = Path(__file__).parents[3]
MINIMAL = JobSpec(ckpt_dir="/c", val_set="/v")
OF_THE_RANK = {"device", "state_dir", "provenance", "progress", "commit", "model", "loss", "data", "metrics"}
"""Arguments of `average` that no job can choose."""


def test_every_option_of_a_job_is_an_argument_of_the_engine_and_every_argument_an_option() -> None:
    options = {argument_of(field) for field in SPEC_FIELDS if field.path not in NOT_FOR_THE_ENGINE}
    assert options == set(inspect.signature(average).parameters) - OF_THE_RANK


def test_the_exceptions_name_options_that_exist() -> None:
    assert {field.path for field in SPEC_FIELDS} >= PATHS | NOT_FOR_THE_ENGINE


def test_the_contracts_defaults_are_the_engines() -> None:
    signature = inspect.signature(average)
    for name, value in average_arguments(MINIMAL).items():
        assert value == signature.parameters[name].default or not value, name


def test_what_a_spec_says_is_what_the_engine_is_given() -> None:
    spec = MINIMAL.model_validate_json(
        '{"ckpt_dir": "/c", "val_set": "/v", "method": {"name": "twa", "options": {"steps": 9}}, "seed": 5,'
        '"checkpoints": {"steps": [1, 2]}, "train_set": {"path": "/t", "use": "batchnorm"},'
        '"adapters": {"space": "delta", "rank": 8, "base_model": "/b"}, "base": "/a",'
        '"task": {"options": {"batch_size": 4}}, "resources": {"precision": "int8"}}'
    )
    arguments = average_arguments(spec)
    assert (arguments["method"], arguments["method_options"]) == ("twa", {"steps": 9})
    assert (arguments["task"], arguments["task_options"]) == (None, {"batch_size": 4})
    assert (arguments["steps"], arguments["seed"]) == ((1, 2), 5)
    assert (arguments["train_set_use"], arguments["precision"]) == ("batchnorm", "int8")
    assert (arguments["adapter_space"], arguments["adapter_rank"], arguments["adapter_error"]) == ("delta", 8, None)
    assert not arguments.keys() & {
        "base_model",
        "base",
        "train_set",
        "curve_earlier",
        "output",
        "ckpt_dir",
        "val_set",
    }, "the agent resolves paths"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("`last=` must be at most 3, but is 5.", "`checkpoints.last` must be at most 3, but is 5."),
        ("Choose another `dtype=`.", "Choose another `output.dtype`."),
        ("`seed=` is 1, `method_options=` has `steps`", "`seed` is 1, `method.options` has `steps`"),
        ("`last` is a link to `epoch-3`.", "`last` is a link to `epoch-3`."),
    ],
)
def test_an_argument_in_a_message_is_told_as_the_option_and_a_file_of_that_name_is_not(said: str, told: str) -> None:
    assert in_spec_words(said) == told


@pytest.mark.parametrize("field", [field for field in SPEC_FIELDS if field.path not in NOT_FOR_THE_ENGINE])
def test_a_user_of_the_command_reads_the_flag_where_the_engine_names_its_argument(field: SpecField) -> None:
    message = f"Choose another `{argument_of(field)}=`."
    assert in_flags(in_spec_words(message)) == f"Choose another `{FLAG_OF[field.path]}`."


@pytest.mark.parametrize(
    ("folder", "functions"),
    [
        ("worker/ladle_engine", (average, combine_checkpoints, convert_checkpoints, rebuild, check_task)),
        ("client/ladle", (Client, submit)),
    ],
)
def test_no_message_names_an_argument_that_does_not_exist(
    folder: str, functions: tuple[Callable[..., Any], ...]
) -> None:
    known = {name for function in functions for name in inspect.signature(function).parameters}
    for file in (REPOSITORY / folder).rglob("*.py"):
        named = set(re.findall(r"`([a-z_]+)=`", file.read_text()))
        assert named <= known, f"{file.name} names {sorted(named - known)}"


def test_what_has_no_encoding_becomes_a_visible_escape_wherever_it_stands() -> None:
    odd = {"caf\udce9": ["\ud800", ("ok é 🙂", 3, None)], "n": 1.5}
    assert well_formed(odd) == {"caf\\udce9": ["\\ud800", ("ok é 🙂", 3, None)], "n": 1.5}
