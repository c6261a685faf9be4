"""What the agent says to trackers about a job, and what it counts of an attempt."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from ladle_contracts import JobSpec, StageStarted, StepDone
from ladle_contracts.job_spec import Tracking
from ladle_worker.bytes_read import read_by
from ladle_worker.claim import Ended
from ladle_worker.tally import Tally
from ladle_worker.tracking import LONGEST_VALUE, Trackers, run_name, settings_of, trackers_of


def test_a_run_has_the_jobs_id_in_its_name_however_it_is_called() -> None:
    assert run_name(None, "digits-twa-3f9a2c01be", "3f9a2c01be5a5a5a5a5a") == "digits-twa-3f9a2c01be"
    assert run_name("seed-3", "digits-twa-3f9a2c01be", "3f9a2c01be5a5a5a5a5a") == "seed-3-3f9a2c01be"


def test_settings_are_what_was_asked_for_without_addresses_and_cut_short() -> None:
    spec = JobSpec.model_validate(
        {
            "ckpt_dir": "/c", "val_set": "/v", "method": {"name": "twa", "options": {"steps": 3}}, "seed": 2,
            "webhooks": ["https://example.org/secret-path"], "labels": {"x": "y" * 200, "z": "y" * 200},
        },
        strict=False,
    )  # fmt: skip
    found = settings_of(spec)
    assert found.keys() == {"ckpt_dir", "val_set", "method.name", "method.options", "seed", "labels"}
    assert (found["method.name"], found["method.options"], found["seed"]) == ("twa", '{"steps": 3}', 2)
    assert len(str(found["labels"])) == LONGEST_VALUE


def test_stages_and_steps_are_counted_from_where_the_attempt_began() -> None:
    ended: list[tuple[str, float]] = []
    tally = Tally(lambda stage, seconds: ended.append((stage, seconds)))
    assert tally.add([StageStarted(stage="check")], 10.0) == {}
    train = [StageStarted(stage="train"), *(StepDone(stage="train", step=step, total=90) for step in (51, 60, 60))]
    assert tally.add(train, 12.0) == {"stage check 5.0": 1, "stage check sum": 2.0, "steps": 10}
    assert tally.add([StepDone(stage="write", step=5, total=9)], 13.0) == {}
    assert tally.end(13.5) == {"stage train 5.0": 1, "stage train sum": 1.5}
    assert tally.end(99.0) == {}
    assert ended == [("check", 2.0), ("train", 1.5)]


@pytest.mark.parametrize("step", [10**400, 10**300, 10**10, -5])
def test_steps_that_no_job_makes_are_not_counted(step: int) -> None:
    """They would stay in the numbers of all jobs, or be none that Redis can add."""
    tally = Tally()
    assert tally.add([StageStarted(stage="train"), StepDone(stage="train", step=1, total=9)], 1.0) == {"steps": 1}
    assert tally.add([StepDone(stage="train", step=step, total=9)], 2.0) == {}


@pytest.mark.parametrize(
    ("stages", "total"),
    [
        ([{"stage": "check", "bytes_read": 5}, {"stage": "write", "bytes_read": 7}], 12),
        ([{"bytes_read": -5}, {"bytes_read": "9"}, {"bytes_read": 1e300}, {"bytes_read": 2**70}, 3, None], 0),
        ([{"bytes_read": 2**62}] * 1000, 0),
        ({"bytes_read": 5}, 0),
    ],
)
def test_bytes_are_what_the_report_says_if_it_makes_sense(tmp_path: Path, stages: object, total: int) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"stages": stages}))
    assert read_by(tmp_path).get("bytes_read", 0) == total


def test_trackers_are_told_of_copies_and_links_in_a_result_are_not_followed(tmp_path: Path) -> None:
    result, kept = tmp_path / "result", tmp_path / "kept"
    for folder in (result, kept):
        folder.mkdir()
    (tmp_path / "secret").write_text("the operator's")
    (result / "report.html").symlink_to(tmp_path / "secret")
    os.mkfifo(result / "coefficients.json")
    (result / "report.json").write_text("{}")
    trackers = Trackers([object()], kept, 1.0)  # type: ignore[list-item]
    trackers.keep_report(result)
    assert [path.name for path in kept.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (tempfile, "TemporaryDirectory", OSError("no space left")),
        (subprocess, "Popen", OSError("cannot allocate memory")),
        (subprocess, "Popen", subprocess.SubprocessError("no process")),
    ],
)
def test_a_tracker_that_cannot_be_started_is_told_and_the_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    spec = JobSpec(ckpt_dir="/c", val_set="/v", tracking=Tracking(trackers=("tensorboard", "mlflow")))
    claim: Any = SimpleNamespace(speaks=True, spec=spec, output="digits", job_id="3f9a2c01be5a5a5a5a5a")
    settings: Any = SimpleNamespace(trackers=(), tracker_wait_s=1.0, trackers_folder=tmp_path)
    folder: Any = SimpleNamespace(path=tmp_path, events=tmp_path / "events")
    monkeypatch.setattr(module, name, fail)
    with trackers_of(settings, claim, folder) as trackers:
        told = [warned.message for warned in trackers.news()]
        assert trackers.news() == []
        trackers.keep_report(tmp_path)
        assert trackers.finish(Ended(outcome="failed"), lambda: None).outcome == "failed"
    assert [str(error) in each for each in told] == [True, True]
    assert "`tensorboard`" in told[0]
    assert "`mlflow`" in told[1]
