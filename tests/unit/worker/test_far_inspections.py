"""A node looks at far folders: one process fetches headers, and a confined one opens them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ladle_worker.confinement import probe
from ladle_worker.confinement.choose import choose
from ladle_worker.inspections import Inspections
from ladle_worker.settings import Settings
from tests.builders import make_base, make_checkpoints
from tests.far_servers import S3
from tests.unit.engine.lora import make_sweep


@pytest.fixture
def inspections(tmp_path: Path, s3: S3) -> Inspections:
    settings = Settings(
        roots=("s3://bucket/run", str(tmp_path / "near")),  # type: ignore[arg-type]
        results_dir=tmp_path / "results",
        far_cache=tmp_path / "cache",
    )
    return Inspections(settings, choose(("auto",), probe.probe(), gpus=False), threading.Event())


def look(inspections: Inspections, **request: Any) -> dict[str, Any]:
    return inspections._answer(request, time.monotonic() + 120)


def test_headers_are_fetched_and_the_rest_stays_where_it_is(tmp_path: Path, s3: S3, inspections: Inspections) -> None:
    (tmp_path / "large").mkdir()
    for number in (1, 2):
        save_file({"weight": torch.full((1_000_000,), float(number))}, tmp_path / f"large/step-{number}.safetensors")
    s3.put(tmp_path / "large", "run/large")
    s3.put_bytes("run/large/optimizer.pt", bytes(9_000_000))
    told = look(inspections, ckpt_dir="s3://bucket/run/large")
    assert told["ok"], told
    found = told["inspection"]
    assert found["folder"] == "s3://bucket/run/large"
    assert [each["num_parameters"] for each in found["checkpoints"]] == [1_000_000] * 2
    assert str(tmp_path) not in str(found)
    # Of each file of four megabytes the block with the header.
    assert s3.sent < 2 * (1 << 20) + 100_000
    assert not s3.of("optimizer.pt")


@pytest.mark.parametrize("address", ["s3://bucket/other", "s3://bucket/run/../other", "http://169.254.169.254/latest"])
def test_what_is_outside_the_roots_is_not_asked_for(s3: S3, inspections: Inspections, address: str) -> None:
    told = look(inspections, ckpt_dir=address)
    assert (told["ok"], told["code"]) == (False, "path-not-allowed")
    assert not s3.requests


@pytest.mark.slow
def test_a_folder_that_is_not_there_or_not_readable_is_told_of_in_one_line(s3: S3, inspections: Inspections) -> None:
    for words, fault in (("nothing at this address", None), ("does not know them", "InvalidAccessKeyId")):
        s3.fault = lambda method, path, fault=fault: fault  # type: ignore[misc]
        told = look(inspections, ckpt_dir="s3://bucket/run/none")
        (problem,) = told["inspection"]["problems"]
        assert problem["code"] == "unreadable-input"
        assert words in problem["message"]
        assert "secret" not in str(told)
        assert not told["inspection"]["usable"]


@pytest.mark.slow
def test_a_far_base_fits_by_its_header_and_far_weights_are_not_read_for_a_forecast(
    tmp_path: Path, s3: S3, inspections: Inspections
) -> None:
    run = make_checkpoints(tmp_path / "near" / "run")
    (tmp_path / "base").mkdir()
    make_base(tmp_path / "base" / "model.safetensors", run / "epoch-1.safetensors")
    s3.put(tmp_path / "base", "run/base")
    told = look(inspections, ckpt_dir=str(run), base="s3://bucket/run/base", forecast=True)["inspection"]
    assert told["usable"], told["problems"]
    assert (told["base"]["fits"], told["base"]["name"], told["forecast"]) == (True, "base:base", None)
    assert any("headers only" in warning for warning in told["warnings"])


@pytest.mark.slow
def test_of_a_far_base_model_headers_are_read_too(tmp_path: Path, s3: S3, inspections: Inspections) -> None:
    adapters = make_sweep(tmp_path / "near", {"a": {}, "b": {}})
    s3.put(tmp_path / "near" / "base", "run/base")
    told = look(inspections, ckpt_dir=str(adapters), adapters={"base_model": "s3://bucket/run/base"})
    assert told["inspection"]["usable"], told["inspection"]["problems"]
