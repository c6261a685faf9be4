"""A disk of the results that is full, read-only, gone or failing: the job says so, once, and leaves nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ladle_contracts import JobRecord, JobSpec, JobState, MethodChoice, Output, Reason
from tests.builders import make_inputs
from tests.integration.life import Cluster, Gate, alpha_of
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, running

MOUNT = 'mount -t tmpfs -o size=8m tmpfs "$1" && mount --bind "$1" "$2" && shift 2 && exec "$@"'
"""Two mounts of one disk: `$2` is the folder of results, and `$1` shows it whatever happens there."""


def can_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_mount(), reason="mounting a disk needs root and a namespace of its own"),
]


@dataclass
class Disk:
    """The disk of the results of a worker, which alone sees it."""

    worker: Process
    folder: Path

    @property
    def path(self) -> Path:
        """The disk itself, as this process reaches it."""
        return Path(f"/proc/{self.worker.pid}/root{self.folder / 'disk'}")

    @property
    def results(self) -> str:
        return str(self.folder / "results")

    def fill(self) -> None:
        with suppress(OSError), (self.path / "of-somebody-else").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_read_only(self) -> None:
        self._in_its_namespace("mount", "--bind", self.results, self.results)
        self._in_its_namespace("mount", "-o", "remount,bind,ro", self.results)

    def take_away(self) -> None:
        """What is open stays open; the names are those of the empty folder below."""
        self._in_its_namespace("umount", "--lazy", self.results)

    def bring_back(self) -> None:
        self._in_its_namespace("mount", "--bind", str(self.folder / "disk"), self.results)

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()} - {"gates", "of-somebody-else", ".ladle"}

    def _in_its_namespace(self, *command: str) -> None:
        subprocess.run(["nsenter", "--mount", f"--target={self.worker.pid}", *command], check=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


@pytest.fixture
def disk(tmp_path: Path, server: RedisServer, made: Cluster, data: Path) -> Iterator[Disk]:
    for name in ("disk", "results", "gates"):
        (tmp_path / name).mkdir()
    # Confined ranks have mounts of their own, in which nothing would change.
    process = gated_worker(tmp_path, server, data, SWEEP_S="1", LEASE_S="60", CONFINE="off")
    mounts = [str(tmp_path / "disk"), str(tmp_path / "results")]
    process.arguments = ["unshare", "-m", "bash", "-c", MOUNT, "bash", *mounts, *process.arguments]
    with running(process):
        until(lambda: made.call(made.store.nodes()), what="the node to register")
        made_disk = Disk(process, tmp_path)
        (made_disk.path / "gates").symlink_to(tmp_path / "gates")
        yield made_disk


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gates")


def submit(made: Cluster, data: Path) -> str:
    method = MethodChoice(name="twa", options={"steps": 30})
    spec = JobSpec(
        ckpt_dir=str(data / "checkpoints"), val_set=str(data / "val.npz"), method=method, output=Output(name="out")
    )
    return made.submit(spec)


def finish_at(point: str, do: Callable[[], None], made: Cluster, gate: Gate, data: Path) -> JobRecord:
    """The end of a job to which something happens when it has come to the point."""
    if point == "before":
        do()
        return made.finish(submit(made, data))
    gate.hold(point)
    job = submit(made, data)
    gate.wait_for(point)
    do()
    gate.open(point)
    return made.finish(job)


@pytest.mark.parametrize("point", ["before", "train-5", "write"])
def test_a_full_disk_ends_the_job_at_once(point: str, disk: Disk, made: Cluster, gate: Gate, data: Path) -> None:
    """Neither state, log, events, staging nor outcome can be written."""
    record = finish_at(point, disk.fill, made, gate, data)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.DISK_FULL), record
    assert record.attempt == 1, "trying again would not help"
    assert "disk" in (record.message or "")
    until(lambda: not disk.names(), what="the job's files to go")
    assert not list((disk.path / ".ladle").iterdir())


def test_ranks_that_die_without_a_word_on_a_full_disk_died_of_it(
    disk: Disk, made: Cluster, gate: Gate, data: Path
) -> None:
    gate.hold("start")
    job = submit(made, data)
    rank = gate.wait_for("start")
    disk.fill()
    os.kill(rank, signal.SIGKILL)
    record = made.finish(job)
    assert (record.reason, record.attempt) == (Reason.DISK_FULL, 1), record


def test_a_result_that_is_ready_when_the_disk_fills_up_is_not_lost(
    disk: Disk, made: Cluster, gate: Gate, data: Path
) -> None:
    record = finish_at("tell", disk.fill, made, gate, data)
    assert record.state == JobState.SUCCEEDED, record
    assert record.attempt == 1
    assert (disk.path / "out" / "model.safetensors").stat().st_size == record.result.files["model.safetensors"]  # type: ignore[union-attr]


@pytest.mark.parametrize("point", ["before", "train-5", "tell"])
def test_a_read_only_disk_ends_the_job_at_once(point: str, disk: Disk, made: Cluster, gate: Gate, data: Path) -> None:
    record = finish_at(point, disk.make_read_only, made, gate, data)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.RESULTS_UNWRITABLE), record
    assert record.attempt == 1, "trying again would not help"
    assert "Read-only file system" in (record.message or "")
    assert not (disk.path / "out").exists()


@pytest.mark.parametrize("point", ["train-5", "tell"])
def test_a_disk_that_has_gone_is_tried_again_and_never_written_below(
    point: str, disk: Disk, made: Cluster, gate: Gate, data: Path
) -> None:
    gate.hold(point)
    job = submit(made, data)
    gate.wait_for(point)
    disk.take_away()
    gate.open(point)
    record = made.wait_for(job, lambda record: record.node_failures == 2)
    assert (record.failures, record.reason) == (0, Reason.RESULTS_UNWRITABLE), record
    made.call(made.store.cancel(job))
    made.finish(job)
    below = Path(f"/proc/{disk.worker.pid}/root{disk.results}")
    assert not list(below.iterdir()), "where nobody would find it"


def test_a_job_goes_on_from_its_state_when_the_disk_is_back(disk: Disk, made: Cluster, gate: Gate, data: Path) -> None:
    gate.hold("train-17")
    job = submit(made, data)
    gate.wait_for("train-17")
    made.stop_scheduler()
    disk.take_away()
    gate.open("train-17")
    assert made.wait_for(job, lambda record: record.state == JobState.QUEUED).reason == Reason.RESULTS_UNWRITABLE
    disk.bring_back()
    made.start_scheduler()
    record = made.finish(job)
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 2)
    steps = [
        event.body.step
        for event in made.events(job)
        if event.attempt == 2 and event.body.kind == "step" and event.body.stage == "train"
    ]
    assert all(step >= 15 for step in steps), "at most the rest of the training"
    assert alpha_of(disk.path, "out", "twa")


@pytest.mark.parametrize(
    ("number", "attempts", "reason"),
    [
        (errno.EDQUOT, 1, Reason.DISK_FULL),
        (errno.EACCES, 1, Reason.RESULTS_UNWRITABLE),
        (errno.EIO, 2, Reason.RESULTS_UNWRITABLE),
        (errno.ESTALE, 2, Reason.RESULTS_UNWRITABLE),
    ],
)
def test_what_the_kernel_says_about_the_state_is_the_jobs_reason(
    number: int, attempts: int, reason: Reason, disk: Disk, made: Cluster, gate: Gate, data: Path
) -> None:
    (gate.folder / "state.errno").write_text(str(number))
    record = made.wait_for(submit(made, data), lambda record: record.node_failures == attempts)
    assert (record.state == JobState.FAILED, record.reason) == (attempts == 1, reason), record
    assert (record.attempt, record.failures) == (attempts, 0)
    assert os.strerror(number) in (record.message or "")
