"""What a rank can do to the machine when somebody else has got hold of it: nothing. Through a real worker."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ladle_contracts import JobSpec, JobState, MethodChoice, Output, Reason, Resources
from tests.builders import make_inputs
from tests.integration.life import Cluster, Gate
from tests.polling import until
from tests.servers import Process, RedisServer, is_alive, running, worker_process


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


def spec(data: Path, **changes: object) -> JobSpec:
    method = MethodChoice(name="twa", options={"steps": 30})
    return JobSpec(ckpt_dir=str(data / "checkpoints"), val_set=str(data / "val.npz"), method=method, **changes)


@contextmanager
def worker(folder: Path, server: RedisServer, data: Path, rank: str, **settings: str) -> Iterator[Process]:
    module = f"tests.integration.{rank}"
    # A busy machine must not lose the node: attempts are counted.
    with running(worker_process(folder, server, data, RANK_MODULE=module, LEASE_S="60", **settings)) as process:
        yield process


def child_of(process: Process) -> int:
    """The agent: the process that Celery has forked."""
    return int(until(lambda: process.tree()[1:], what="the agent")[0].pid)


def with_argument(argument: str) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if is_alive(each) and argument in _command(each)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("confine", ["auto", "files,ports"])
def test_a_captured_rank_reads_writes_and_reaches_nothing_and_leaves_no_process(
    confine: str, tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    outside = tmp_path / "outside" / "secret.txt"
    outside.parent.mkdir()
    outside.write_text("a secret")
    daemon = f"left-by-{tmp_path.name}-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0 if confine == "auto" else free_service_port())) as listener,
        worker(tmp_path, server, data, "hostile_rank", CONFINE=confine) as process,
    ):
        labels = {
            "outside": str(outside),
            "agent": str(child_of(process)),
            "port": str(listener.getsockname()[1]),
            "redis": str(server.folder / "redis.sock"),
            "daemon": daemon,
        }
        record = made.finish(made.submit(spec(data, labels=labels)))
        assert record.reason == Reason.INTERNAL_ERROR, record.log_tail
        worked = json.loads(record.message or "")
        protections = made.call(made.store.nodes())[0].protections
        left = with_argument(daemon)
    # Without a network of their own ranks reach sockets of the file system, and send datagrams.
    assert set(worked) <= (set() if confine == "auto" else {"connect_to_redis", "send_a_datagram"}), worked
    assert not left
    assert protections == (("files", "network", "processes", "memory") if confine == "auto" else ("files", "ports"))
    assert sorted(path.name for path in (data).iterdir()) == ["checkpoints", "val.npz"]
    assert not (tmp_path / "results" / "planted").exists()


def free_service_port() -> int:
    """One below those that the kernel gives to anybody."""
    for port in range(20_000, 30_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("all ports are taken")


@pytest.mark.slow
def test_memory_that_is_not_there_ends_the_job_at_its_first_attempt(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    with worker(tmp_path, server, data, "hungry_rank"):
        jobs = {how: made.submit(spec(data, labels={"how": how})) for how in ("torch", "rust")}
        for how, job in jobs.items():
            record = made.finish(job)
            assert (record.state, record.reason, record.attempt) == (JobState.FAILED, Reason.OUT_OF_MEMORY, 1), how
            assert "must fit into free memory" in (record.message or "")


@pytest.mark.slow
def test_a_job_that_stands_still_is_ended_as_stalled_and_goes_on_where_it_was(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    gate = Gate(tmp_path / "results" / "gates")
    (gate.folder / "train-5.hold").touch()
    with worker(tmp_path, server, data, "gated_rank", STALL_S="600,train=3"):
        job = made.submit(spec(data, output=Output(name="out")))
        until(lambda: gate.reached("train-5"), what="training")
        (gate.folder / "train-5.hold").unlink()
        record = made.finish(job)
        assert record.state == JobState.SUCCEEDED, record
        assert (record.attempt, record.failures) == (2, 1)
        again = next(event.body for event in made.events(job) if event.body.kind == "state" and event.body.reason)
        assert again.reason == Reason.STALLED
        assert "stage `train`" in (again.message or "")
        log = made.call(made.store.logs(job, 1000))
        assert any("gates.py" in line and "in hold" in line for line in log), "the log says where it stood"


@pytest.mark.slow
def test_a_stopped_rank_stalls_the_others_and_none_is_left(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    gate = Gate(tmp_path / "results" / "gates")
    (gate.folder / "train-5.hold").touch()
    with worker(tmp_path, server, data, "gated_rank", STALL_S="600,train=5", CONFINE="off") as process:
        job = made.submit(spec(data, resources=Resources(ranks_per_node=2)))
        until(lambda: gate.reached("train-5"), what="training")
        below = process.tree()[2:]
        ranks = [each for each in below if "tests.integration.gated_rank" in each.cmdline()[:4]]
        ranks[-1].send_signal(signal.SIGSTOP)
        (gate.folder / "train-5.hold").unlink()
        (gate.folder / "train-5.open").touch()
        record = made.finish(job)
        assert (record.state, record.failures) == (JobState.SUCCEEDED, 1), record
        assert not any(is_alive(each) for each in below)
