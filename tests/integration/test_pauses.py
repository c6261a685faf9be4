"""Everything stands still for longer than a lease, and goes on: a laptop that slept, a host that was out of breath.

That is no failure of the job.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from ladle_contracts import JobSpec, JobState, MethodChoice, keys
from ladle_service.scheduler import PAUSE_MS, Scheduler
from ladle_service.wake import Waker
from tests.builders import make_checkpoints, make_val_set
from tests.integration.life import Cluster, Gate
from tests.integration.machine import EXPIRED, LEASE_MS, NODE_LIFE_MS, Machine
from tests.integration.test_state_machine import Recorder
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, redis_server, running, service_process

LEASE_S = 3
HOUR_MS = 3600 * 1000


@dataclass
class Everything:
    """Redis, the API with its scheduler, and a worker with a job at work."""

    server: RedisServer
    service: Process
    worker: Process
    cluster: Cluster
    gate: Gate
    data: Path
    jobs: int = 0
    _stopped: dict[str, list[psutil.Process]] = field(default_factory=dict)

    def processes(self, part: str) -> list[psutil.Process]:
        if part == "redis":
            assert self.server.process is not None
            return [psutil.Process(self.server.process.pid)]
        return (self.service if part == "api" else self.worker).tree()

    def stop(self, part: str) -> None:
        self._stopped[part] = self.processes(part)
        for process in self._stopped[part]:
            process.send_signal(signal.SIGSTOP)

    def go_on(self, part: str) -> None:
        for process in self._stopped.pop(part):
            process.send_signal(signal.SIGCONT)

    def lease_left_ms(self, job: str) -> float:
        """By Redis' clock; negative when it is over."""
        with self.server.client() as redis:
            seconds, micros = redis.time()
            return float(redis.hget(keys.leases(job), "node-1") or 0) - seconds * 1000 - micros / 1000

    def running_job(self) -> tuple[str, str]:
        """A job that trains until its gate is opened, and the gate's name."""
        self.jobs += 1
        gate = f"train-{10 + self.jobs}"
        (self.gate.folder / f"{gate}.hold").touch()
        method = MethodChoice(name="twa", options={"steps": 30})
        job = self.cluster.submit(
            JobSpec(ckpt_dir=str(self.data / "checkpoints"), val_set=str(self.data / "val.npz"), method=method)
        )
        until(lambda: self.gate.reached(gate), what="training")
        return job, gate


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    folder = tmp_path_factory.mktemp("pauses")
    data = tmp_path_factory.mktemp("data")
    make_checkpoints(data / "checkpoints")
    make_val_set(data / "val.npz")
    gate = Gate(folder / "results" / "gates")
    with redis_server(folder) as server, made(server) as cluster:
        service, worker = (
            service_process(folder, server, data),
            gated_worker(folder, server, data, LEASE_S=str(LEASE_S)),
        )
        with running(service), running(worker):
            yield Everything(server, service, worker, cluster, gate, data)


@contextmanager
def made(server: RedisServer) -> Iterator[Cluster]:
    """A store; the scheduler is the service's."""
    cluster = Cluster(server)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [("api", "worker"), ("worker", "api"), ("worker", "redis", "api"), ("redis",)],
    ids=" then ".join,
)
def test_what_stood_still_together_is_nobodys_failure_in_whatever_order_it_goes_on(
    everything: Everything, order: tuple[str, ...]
) -> None:
    job, gate = everything.running_job()
    for part in reversed(order):
        everything.stop(part)
    stopped_at = time.monotonic()
    until(lambda: time.monotonic() - stopped_at > LEASE_S + PAUSE_MS / 1000, what="a lease to be over")
    if "redis" not in order:
        assert everything.lease_left_ms(job) < 0
    for position, part in enumerate(order):
        everything.go_on(part)
        if part != "redis" and "redis" not in order[position:]:
            # Each has its turn, so that the order counts.
            until(lambda: everything.lease_left_ms(job) > 0, what=f"the {part} to be at work again")
    everything.gate.open(gate)
    record = everything.cluster.finish(job)
    assert (record.state, record.attempt, record.failures) == (JobState.SUCCEEDED, 1, 0)


@pytest.mark.slow
def test_a_node_that_alone_stood_still_loses_its_job(everything: Everything) -> None:
    """The pause of all must not become an excuse for one."""
    job, gate = everything.running_job()
    everything.stop("worker")
    record = everything.cluster.wait_for(job, lambda record: record.state == JobState.QUEUED)
    assert (record.failures, record.node_failures) == (0, 1)
    everything.go_on("worker")
    everything.gate.open(gate)
    assert everything.cluster.finish(job).state == JobState.SUCCEEDED


class TwoLeases:
    """A job on node `a`, whose lease has run out, and one on `b` that nobody has claimed in time."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        for name in ("a", "b"):
            machine.node(name)
        self.claimed, self.unclaimed = machine.submit(), machine.submit()
        machine.schedule(self.claimed)
        assert machine.claim(self.claimed, 1, "a", EXPIRED) == "ok"
        machine.call("schedule", machine.fence, self.unclaimed, EXPIRED, NODE_LIFE_MS)
        machine.redis.delete(keys.SCHEDULER_LOCK)

    @property
    def attempts(self) -> list[tuple[str, str]]:
        jobs = (self.claimed, self.unclaimed)
        return [(self.machine.field(job, "node_failures") or "0", self.machine.field(job, "state")) for job in jobs]


UNTOUCHED = [("0", "running"), ("0", "scheduled")]


def rounds(machine: Machine, between: Any, *, settle_s: float) -> None:
    """A scheduler's first round, something that happens, and another round."""

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            scheduler = Scheduler(redis, Recorder(), settle_s=settle_s)
            assert await scheduler.tick()
            between(scheduler)
            assert await scheduler.tick()

    asyncio.run(use())


def expire(leases: TwoLeases) -> None:
    leases.machine.redis.hset(keys.leases(leases.claimed), "a", 1)
    leases.machine.redis.hset(keys.job(leases.unclaimed), "claim_by", 1)


def test_a_scheduler_that_is_new_does_not_judge_by_what_happened_before_it(machine: Machine) -> None:
    leases = TwoLeases(machine)
    rounds(machine, lambda scheduler: None, settle_s=60)
    assert leases.attempts == UNTOUCHED


@pytest.mark.parametrize(
    "moved_ms", [-HOUR_MS, -PAUSE_MS - 1000, HOUR_MS], ids=["it stood still", "briefly", "set back"]
)
def test_a_scheduler_that_stood_still_or_whose_redis_has_another_time_does_not_judge(
    machine: Machine, moved_ms: int
) -> None:
    leases = TwoLeases(machine)

    def pause(scheduler: Scheduler) -> None:
        expire(leases)
        scheduler._clock_ms += moved_ms

    rounds(machine, pause, settle_s=60)
    assert leases.attempts == UNTOUCHED


def test_a_scheduler_that_was_at_work_all_the_time_judges(machine: Machine) -> None:
    leases = TwoLeases(machine)
    rounds(machine, lambda scheduler: expire(leases), settle_s=60)
    assert [failures for failures, _ in leases.attempts] == ["1", "1"]
    assert leases.attempts[1][1] in ("queued", "scheduled")
    assert machine.field(leases.unclaimed, "attempt") != machine.field(leases.claimed, "state")


def test_a_scheduler_that_stands_still_between_its_look_at_the_clock_and_its_judgement_does_not_judge(
    machine: Machine,
) -> None:
    leases = TwoLeases(machine)
    seconds, _ = machine.redis.time()
    assert machine.call("reap", machine.fence, leases.claimed, 0, seconds * 1000 - 60_000, PAUSE_MS) == "late"
    assert leases.attempts == UNTOUCHED
    assert machine.call("reap", machine.fence, leases.claimed, 0, seconds * 1000, 60_000) == "queued"


def test_a_pause_does_not_shorten_a_lease_on_which_a_node_relies(machine: Machine) -> None:
    leases = TwoLeases(machine)
    machine.call("renew", leases.claimed, 1, "a", LEASE_MS)
    before = int(machine.redis.hget(keys.leases(leases.claimed), "a"))
    machine.call("settle", machine.fence, 1000)
    assert int(machine.redis.hget(keys.leases(leases.claimed), "a")) == before


def test_a_clock_that_was_set_back_does_not_keep_dead_nodes_and_waiting_jobs_for_ever(machine: Machine) -> None:
    """What was written by the later clock lies far in the future."""
    leases = TwoLeases(machine)
    seconds, _ = machine.redis.time()
    far = (seconds + 100 * 3600) * 1000
    machine.redis.hset(keys.leases(leases.claimed), "a", far)
    machine.redis.hset(keys.job(leases.unclaimed), "claim_by", far)
    machine.call("settle", machine.fence, 1000)
    assert int(machine.redis.hget(keys.leases(leases.claimed), "a")) < far - HOUR_MS
    assert int(machine.field(leases.unclaimed, "claim_by")) < far - HOUR_MS
    machine.redis.hset(keys.node("a"), "heartbeat_at", far)
    assert machine.supply() == (0, 1), "only `b` is alive"
    machine.node("a")
    machine.end(leases.claimed, 1, "crashed")
    machine.redis.hset(keys.job(leases.claimed), "not_before", far)
    assert machine.next_job() == leases.claimed


def test_a_node_that_has_restarted_has_lost_its_attempt_whatever_the_clock_says(machine: Machine) -> None:
    leases = TwoLeases(machine)
    machine.node("a")
    machine.call("settle", machine.fence, LEASE_MS)
    assert machine.reap(leases.claimed) == "queued"
    assert json.loads(machine.field(leases.unclaimed, "nodes")) == ["b"]


def test_a_call_for_a_node_is_heard_whatever_its_clock_says(shared_server: RedisServer) -> None:
    """A worker throws away a message that has expired by its own clock, and the job would never start."""
    waker = Waker(shared_server.url)
    asyncio.run(waker.wake("node-1", "job-1", 1, 0))
    waker.close()
    with shared_server.client() as redis:
        message = json.loads(redis.lpop(keys.node_queue("node-1")))
    assert {message["headers"][name] for name in ("expires", "eta")} == {None}
