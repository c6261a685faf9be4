"""Through the real stack: what somebody exchanges for a link out of the roots, at whatever moment, is never read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ladle_contracts import JobSpec, JobState, MethodChoice, Output, Reason, TrainSet
from tests.builders import make_checkpoints, make_val_set
from tests.integration.life import Cluster, Gate
from tests.polling import until
from tests.servers import Process

SECRET = "a secret of somebody else"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The root, and beside it `outside`, which looks just the same but for a secret."""
    for name, seed in (("data", 0), ("outside", 1)):
        make_checkpoints(tmp_path / name / "checkpoints", seed=seed)
        (tmp_path / name / "checkpoints" / "tokenizer.json").write_text(SECRET if seed else "{}")
        make_val_set(tmp_path / name / "val.npz", start=700 + 100 * seed)
        make_val_set(tmp_path / name / "train.npz", start=100 * seed)
    return tmp_path / "data"


def spec_of(data: Path) -> JobSpec:
    return JobSpec(
        ckpt_dir=str(data / "checkpoints"),
        val_set=str(data / "val.npz"),
        train_set=TrainSet(path=str(data / "train.npz")),
        method=MethodChoice(name="twa", options={"steps": 3}),
        output=Output(name="out"),
    )


def exchange(data: Path, place: str) -> None:
    path = data / place
    path.rename(data.parent / f"away-{path.name}")
    path.symlink_to(data.parent / "outside" / place)


def put_back(data: Path, place: str) -> None:
    (data / place).unlink()
    (data.parent / f"away-{Path(place).name}").rename(data / place)


def assert_ended(made: Cluster, job: str, reason: Reason, results: Path) -> str:
    record = made.finish(job)
    assert (record.state, record.reason) == (JobState.FAILED, reason), record
    assert record.attempt == 1
    assert not (results / "out").exists()
    # The worker says how the job ended before it clears up.
    until(lambda: not list(results.glob(".ladle-*.tmp")), what="the staging folder to go")
    assert SECRET not in f"{record}"
    return record.message or ""


@pytest.mark.slow
def test_what_is_exchanged_between_submit_and_start_is_refused_as_if_it_were_not_there(
    tmp_path: Path, made: Cluster, worker: Process, data: Path
) -> None:
    until(lambda: made.call(made.store.nodes()), what="the node to register")
    for place in ("checkpoints", "val.npz", "train.npz"):
        made.stop_scheduler()
        job = made.submit(spec_of(data))
        exchange(data, place)
        made.start_scheduler()
        message = assert_ended(made, job, Reason.PATH_NOT_ALLOWED, tmp_path / "results")
        assert "must be an existing file or folder inside the allowed folders" in message
        put_back(data, place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "place", "reason"),
    [
        ("start", "checkpoints", Reason.PATH_NOT_ALLOWED),
        ("start", "val.npz", Reason.PATH_NOT_ALLOWED),
        ("start", "checkpoints/epoch-2.safetensors", Reason.PATH_NOT_ALLOWED),
        ("train-2", "checkpoints", Reason.INPUTS_CHANGED),
        ("write", "checkpoints/tokenizer.json", Reason.INPUTS_CHANGED),
    ],
)
def test_what_is_exchanged_while_the_ranks_start_or_work_ends_the_job(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path, moment: str, place: str, reason: Reason
) -> None:
    (gate.folder / f"{moment}.hold").touch()
    job = made.submit(spec_of(data))
    until(lambda: gate.reached(moment), what=moment)
    exchange(data, place)
    gate.open(moment)
    assert f"`{data / place}" in assert_ended(made, job, reason, tmp_path / "results")


@pytest.mark.slow
def test_a_link_to_elsewhere_in_the_root_works_and_pipes_are_not_waited_for(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    for name in ("y.safetensors", "y.pt", "epoch-9.bin", "modules.json", "vocab", "model.safetensors.index.json"):
        os.mkfifo(data / "checkpoints" / name)
    (gate.folder / "start.hold").touch()
    job = made.submit(spec_of(data))
    until(lambda: gate.reached("start"), what="the ranks to start")
    shutil.move(data / "checkpoints", data / "moved")
    (data / "checkpoints").symlink_to("moved")
    gate.open("start")
    assert made.finish(job).state == JobState.SUCCEEDED
    assert (tmp_path / "results" / "out" / "tokenizer.json").read_text() == "{}"
