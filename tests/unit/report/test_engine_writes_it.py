"""The engine leaves the page beside the report."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from ladle.cli.job_flags import FLAGS
from ladle_engine import average
from ladle_report import answer, page
from ladle_report.command import SETTINGS, command, spec
from ladle_report.reading import read
from ladle_report.sureness import counts_choice
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints
from tests.unit.report.html_pages import parse


def run(folder: Path) -> Path:
    write_checkpoints(folder / "checkpoints", plain_net, count=3)
    average(folder / "checkpoints", "data", output=folder / "out", task=ToyTask(plain_net), method="uniform")
    return folder / "out"


def test_a_result_has_its_page_and_ladle_report_would_write_the_same(tmp_path: Path) -> None:
    output = run(tmp_path)
    report = json.loads((output / "report.json").read_text())
    written = (output / "report.html").read_text()
    assert written == page(report)
    assert answer(report) in parse(written).whole_text


def test_a_report_says_how_its_intervals_were_made_and_what_they_can_tell(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=3)
    methods = {"methods": ["uniform", "last-k"]}
    found = average(
        tmp_path / "checkpoints", "data", output=tmp_path / "out", task=ToyTask(plain_net), method_options=methods
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    best, *averages = report["candidates"]
    choice = report["choice"]
    assert choice["interval"] == "simultaneous"
    assert choice["confidence"] == 0.95
    assert choice["checkpoints"] <= 3
    assert min(choice["low"], choice["high"]) >= 1.95
    assert choice["method"] in {row["method"] for row in averages}
    assert choice["visible_gain"] == found.visible_gain > 0
    assert choice["examples_needed"] == found.examples_needed
    told = next(row for row in averages if row["method"] == choice["method"])
    assert (choice["examples_needed"] is None) == (not told["gain_low"] <= 0 <= told["gain_high"])
    assert "single_low" not in best, "it is not compared with itself"
    for row in averages:
        assert row["gain_low"] < row["single_low"] < row["gain"] < row["single_high"] < row["gain_high"]
    assert counts_choice(read(report))


def test_a_page_that_cannot_be_drawn_leaves_the_model_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: object) -> str:
        raise KeyError("no such figure")

    monkeypatch.setattr("ladle_engine.pipeline.report.page", fail)
    output = run(tmp_path)
    assert (output / "model.safetensors").exists()
    assert not (output / "report.html").exists()


def test_the_settings_that_a_report_repeats_are_those_of_average_and_of_the_command() -> None:
    parameters = inspect.signature(average).parameters
    flags = {flag.path: flag.name for flag in FLAGS}
    for setting in SETTINGS:
        assert parameters[setting.name].default == setting.default, setting.name
        assert flags[setting.path] == setting.flag


def test_a_job_is_told_as_the_command_and_the_spec_that_make_it_again() -> None:
    settings = {
        "ckpt_dir": ["/data/a b", "/data/c"],
        "val_set": {"clean": "/data/clean.npz", "noisy": "/data/noisy.npz"},
        "method": "twa",
        "method_options": {"steps": 200},
        "take_from": {"step-1": ["head.*", "norm.*"]},
        "steps": [1, 2],
        "use_ema": True,
        "seed": 0,
    }
    assert command(settings).replace(" \\\n ", "") == (
        "ladle run '/data/a b' clean=/data/clean.npz noisy=/data/noisy.npz --also /data/c --method twa "
        "--method-option steps=200 --steps 1,2 --use-ema --take-from step-1 'head.*' --take-from step-1 'norm.*'"
    )
    assert spec(settings)["checkpoints"] == {"steps": [1, 2], "use_ema": True, "take_from": settings["take_from"]}
