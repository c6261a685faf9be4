"""What is over leaves Redis after a while, and nothing else does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ladle_contracts import JobState, StepDone, keys
from ladle_service.retention import DAY_MS, Retention
from ladle_service.scheduler import Scheduler
from ladle_service.store import JobStore
from ladle_service.upkeep import BATCH
from tests.integration.api_stack import ScriptedNode, api_stack
from tests.integration.machine import LEASE_MS, Machine, disagreements
from tests.integration.test_state_machine import Recorder
from tests.polling import DEADLINE_S, until

STEP = '{"kind":"step","stage":"train","step":1,"total":2}'


def finished(machine: Machine, days_ago: float, *, log: str = "line") -> str:
    """A job with events and a log that ended so long ago."""
    job = machine.submit(labels={"run": "1"})
    assert machine.schedule(job)[0] == "scheduled"
    assert machine.claim(job, 1, "a") == "ok"
    assert machine.call("report", job, 1, 9, '{"stage":"x"}', 1, "", STEP, log) == "ok"
    assert machine.end(job, 1, "succeeded") == "succeeded"
    seconds, _ = machine.redis.time()
    end = round(seconds * 1000 - days_ago * DAY_MS)
    machine.redis.hset(keys.job(job), "finished_at", end)
    machine.redis.zadd(keys.FINISHED, {job: end})
    machine.redis.zadd(keys.TRACES, {job: end})
    return job


def sweep(machine: Machine, *, rounds: int = 1, **limits: Any) -> None:
    """The rounds of an elected scheduler with these settings."""

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            await redis.delete(keys.SCHEDULER_LOCK)
            scheduler = Scheduler(redis, Recorder(), retention=Retention(**limits))
            for _ in range(rounds):
                assert await scheduler.tick()

    asyncio.run(use())
    assert disagreements(machine.redis) == []


def test_jobs_that_ended_long_ago_are_removed_with_all_that_belongs_to_them(machine: Machine) -> None:
    machine.node("a")
    old, recent, waiting = finished(machine, 11), finished(machine, 9), machine.submit()
    sweep(machine, jobs_days=10)
    assert not list(machine.redis.scan_iter(f"{keys.job(old)}*"))
    assert set(machine.redis.zrange(keys.JOBS, 0, -1)) == {recent, waiting}
    assert machine.redis.llen(keys.log(recent)) == 1


def test_without_limits_everything_is_kept(machine: Machine) -> None:
    machine.node("a")
    job = finished(machine, 30_000)
    machine.redis.hset(keys.node("a"), "heartbeat_at", 1)
    sweep(machine, rounds=2)
    assert machine.redis.llen(keys.log(job)) == 1
    assert machine.redis.xlen(keys.events(job)) > 1
    assert machine.redis.smembers(keys.NODES) == {"a"}


def test_the_events_of_a_job_go_before_the_job_and_the_last_one_stays(machine: Machine) -> None:
    machine.node("a")
    job = finished(machine, 5)
    sweep(machine, jobs_days=10, events_days=4)
    assert [json.loads(fields["body"])["state"] for _, fields in machine.redis.xrange(keys.events(job))] == [
        "succeeded"
    ]
    assert not machine.redis.exists(keys.log(job))

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            store = JobStore(redis, redis)
            record = await store.get(job, None)
            assert record is not None
            assert record.state == JobState.SUCCEEDED
            assert [listed.id for listed in (await store.list("me", labels={"run": "1"})).jobs] == [job]
            assert len(await store.events(job, None, 10)) == 1
            assert await store.logs(job, 10) == ()

    asyncio.run(use())


def test_of_too_many_jobs_the_oldest_go_however_many_they_are(machine: Machine) -> None:
    machine.node("a")
    jobs = [finished(machine, age) for age in range(2 * BATCH + 20, 0, -1)]
    waiting = [machine.submit() for _ in range(3)]
    sweep(machine, rounds=1, most_jobs=5)
    left = BATCH + 20
    assert machine.redis.zrange(keys.FINISHED, 0, -1) == jobs[-left:], "a batch at a time"
    sweep(machine, rounds=3, most_jobs=5)
    assert machine.redis.zrange(keys.FINISHED, 0, -1) == jobs[-5:]
    assert all(machine.field(job, "state") in ("queued", "scheduled") for job in waiting)


def test_nodes_that_are_gone_are_listed_no_longer_unless_they_hold_a_job_or_come_back(machine: Machine) -> None:
    for name in ("a", "b", "c"):
        machine.node(name)
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a", 10 * LEASE_MS)
    seconds, _ = machine.redis.time()
    for name, days in (("a", 8), ("b", 8), ("c", 6)):
        machine.redis.hset(keys.node(name), "heartbeat_at", round(seconds * 1000 - days * DAY_MS))
    machine.redis.lpush(keys.node_queue("b"), "a call that nobody heard")
    sweep(machine, nodes_days=7)
    assert machine.redis.smembers(keys.NODES) == {"a", "c"}
    assert not machine.redis.exists(keys.node("b"), keys.node_queue("b"))
    assert machine.call("heartbeat", "b") == "unknown", "so it registers again"


def test_a_key_that_now_belongs_to_a_newer_job_outlives_the_older_one(machine: Machine) -> None:
    machine.node("a")
    old = finished(machine, 11)
    machine.redis.hset(keys.job(old), "idempotency", "k")
    machine.redis.hset(keys.idempotency("me", "k"), mapping={"job": "a newer one", "digest": "d"})
    sweep(machine, jobs_days=10)
    assert machine.redis.hget(keys.idempotency("me", "k"), "job") == "a newer one"


@pytest.mark.parametrize("was_told", [True, False], ids=["last event read", "last event gone"])
def test_a_job_that_is_removed_while_somebody_follows_it_ends_their_stream(machine: Machine, was_told: bool) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a")

    async def use() -> None:
        async with (
            Redis.from_url(machine.server.url, decode_responses=True) as redis,
            Redis.from_url(machine.server.url, decode_responses=True) as streams,
        ):
            store = JobStore(redis, streams)
            follower = store.follow(job, None)
            assert await anext(follower)
            if was_told:
                machine.end(job, 1, "succeeded")
                assert await anext(follower)
            else:
                machine.redis.hset(keys.job(job), "state", "succeeded")
            machine.call("delete", job)
            async with asyncio.timeout(DEADLINE_S):
                async for _ in follower:
                    continue
            await store.end_streams()

    asyncio.run(use())


def test_the_service_removes_what_its_settings_say(tmp_path: Path) -> None:
    limits = {"KEEP_EVENTS_DAYS": "0.000001", "KEEP_JOBS_DAYS": "0", "KEEP_JOBS_MOST": "1"}
    with api_stack(tmp_path / "s", **limits) as stack, stack.client() as client:
        node = ScriptedNode(stack.server)
        jobs = [client.submit(*stack.paths) for _ in range(3)]
        for job in jobs:
            attempt = node.start(job.id)
            node.report(job.id, attempt, StepDone(stage="train", step=1, total=2), lines=("a line",))
            job.cancel()
            node.call("end", job.id, attempt, "failed", "", "", "", "[]", 0)
        # A service sweeps when it is elected, and then each minute.
        stack.process.stop()
        stack.process.start()
        until(lambda: node.redis.zrange(keys.FINISHED, 0, -1) == [jobs[-1].id], what="the older jobs to go")
        until(lambda: not node.redis.exists(keys.log(jobs[-1].id)), what="the log of the last one to go")
        until(lambda: [record.id for record in client.jobs()] == [jobs[-1].id], what="the service to answer")
        assert [event.body.kind for event in client.job(jobs[-1].id).events()] == ["state"]
        node.close()
