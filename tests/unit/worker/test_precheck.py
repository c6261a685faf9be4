"""What a job would refuse before it reads any weights is refused without one, in the same words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import CheckpointFilter, JobSpec, MethodChoice, Output, TaskChoice, TrainSet
from ladle_engine import EngineError, average
from ladle_worker.convert import average_arguments, in_spec_words
from ladle_worker.precheck import answer
from tests.builders import make_checkpoints, make_val_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_checkpoints(root / "good")
    make_val_set(root / "val.npz")
    make_val_set(root / "few.npz", count=3)
    (root / "empty").mkdir()
    return root


def spec(data: Path, ckpt_dir: str = "good", val_set: str = "val.npz", **more: Any) -> JobSpec:
    return JobSpec(ckpt_dir=str(data / ckpt_dir), val_set=str(data / val_set), **more)


def test_a_glob_and_several_folders_are_checked_as_they_are(data: Path, tmp_path: Path) -> None:
    for given in (str(data / "go*"), (str(data / "good"), str(data / "empty"))):
        job = JobSpec(ckpt_dir=given, val_set=str(data / "val.npz"))
        assert answer(job, tmp_path / "results") == {"ok": True}
    told = answer(JobSpec(ckpt_dir=str(data / "gone-*"), val_set=str(data / "val.npz")), tmp_path / "results")
    assert told["reason"] == "no-checkpoints"
    assert "matches nothing" in told["message"]


def test_a_good_job_passes_and_nothing_is_written(data: Path, tmp_path: Path) -> None:
    before = sorted(data.rglob("*"))
    for job in (spec(data), spec(data, method=MethodChoice(name="twa"), output=Output(name="out"))):
        assert answer(job, tmp_path / "results") == {"ok": True}
    assert sorted(data.rglob("*")) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ckpt_dir": "empty"}, "no-checkpoints"),
        ({"ckpt_dir": "nowhere"}, "no-checkpoints"),
        ({"checkpoints": CheckpointFilter(last=1)}, "too-few-checkpoints"),
        ({"val_set": "nothing.npz"}, "invalid-data"),
        ({"val_set": "few.npz"}, "too-little-data"),
        ({"train_set": {"path": "val.npz"}}, "invalid-data"),
        ({"task": TaskChoice(name="small-cn")}, "unknown-task"),
        ({"task": TaskChoice(options={"batchsize": 3})}, "invalid-task-options"),
        ({"metric": "f1"}, "unknown-metric"),
        ({"method": MethodChoice(name="unifrom")}, "unknown-method"),
        ({"method": MethodChoice(name="twa", options={"stepz": 3})}, "invalid-method-options"),
        ({"method": MethodChoice(name="twa", options={"start": "unifrom"})}, "invalid-method-options"),
        ({"output": Output(name="taken")}, "output-exists"),
    ],
    ids=str,
)
def test_the_refusal_is_the_jobs_own(data: Path, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (tmp_path / "taken").mkdir()
    if "train_set" in changes:
        changes = {"train_set": TrainSet(path=str(data / changes["train_set"]["path"]))}
    job = spec(data, **changes)
    refused = answer(job, tmp_path)
    assert (refused["ok"], refused["reason"]) == (False, reason)
    with pytest.raises(EngineError) as caught:
        average(
            Path(job.ckpt_dir), Path(job.val_set), output=tmp_path / (job.output.name or "out"),
            train_set=job.train_set.path if job.train_set else None, **average_arguments(job),
        )  # fmt: skip
    assert in_spec_words(caught.value.message) == refused["message"]


def test_as_a_program_it_reads_json_and_its_last_line_is_the_answer(data: Path, tmp_path: Path) -> None:
    request = {"spec": spec(data, ckpt_dir="empty").model_dump(mode="json"), "results": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "ladle_worker.precheck"], input=json.dumps(request), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reason"] == "no-checkpoints"
    assert told["message"] in done.stderr, "as in a job's log"
