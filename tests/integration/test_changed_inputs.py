"""Through the real stack: a checkpoint that changes during a job, or before its next attempt, gives no result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ladle_contracts import JobSpec, JobState, MethodChoice, Output, Reason
from tests.builders import make_checkpoints, make_val_set
from tests.integration.life import Cluster, Gate
from tests.polling import until
from tests.servers import Process

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of this test's own: it changes them."""
    make_checkpoints(tmp_path / "data" / "checkpoints")
    make_val_set(tmp_path / "data" / "val.npz")
    return tmp_path / "data"


def spec_of(data: Path) -> JobSpec:
    return JobSpec(
        ckpt_dir=str(data / "checkpoints"),
        val_set=str(data / "val.npz"),
        method=MethodChoice(name="twa", options={"steps": 30}),
        output=Output(name="out"),
    )


def replaced(path: Path) -> None:
    """By another checkpoint of the same size, with the old time of the last change."""
    before = path.stat()
    shutil.copy(path.with_name("epoch-1.safetensors"), path.with_name("other"))
    os.utime(path.with_name("other"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_name("other").replace(path)


def assert_refused(made: Cluster, job: str, path: Path, results: Path) -> None:
    record = made.finish(job)
    assert record.state == JobState.FAILED, record
    assert record.reason == Reason.INPUTS_CHANGED, record
    assert record.message is not None
    assert f"`{path}`" in record.message
    assert not (results / "out").exists()
    # The worker says how the job ended before it clears up.
    until(lambda: not list(results.glob(".ladle-*.tmp")), what="the staging folder to go")


@pytest.mark.parametrize("change", [replaced, Path.unlink])
def test_a_checkpoint_that_changes_while_the_job_trains_ends_it_at_once(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path, change: Callable[[Path], None]
) -> None:
    (gate.folder / "train-5.hold").touch()
    job = made.submit(spec_of(data))
    until(lambda: gate.reached("train-5"), what="step 5")
    path = data / "checkpoints" / "epoch-3.safetensors"
    change(path)
    gate.open("train-5")
    assert_refused(made, job, path, tmp_path / "results")
    assert made.record(job).failures <= 1, "it is not tried again"


def test_a_checkpoint_that_is_gone_before_the_next_attempt_is_not_left_out_silently(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    (gate.folder / "train-5.hold").touch()
    job = made.submit(spec_of(data))
    until(lambda: gate.reached("train-5"), what="step 5")
    worker.kill()
    (gate.folder / "train-5.hold").unlink()
    path = data / "checkpoints" / "epoch-3.safetensors"
    path.unlink()
    worker.start()
    assert_refused(made, job, path, tmp_path / "results")


def test_a_set_that_is_gone_before_the_job_starts_is_refused_by_its_name(
    made: Cluster, worker: Process, data: Path
) -> None:
    sets = {"clean": str(data / "val.npz"), "gone": str(data / "gone.npz")}
    record = made.finish(made.submit(spec_of(data).model_copy(update={"val_set": sets})))
    assert (record.state, record.reason) == (JobState.FAILED, Reason.PATH_NOT_ALLOWED), record
    assert "`val_set.gone` must be an existing file or folder" in (record.message or "")
