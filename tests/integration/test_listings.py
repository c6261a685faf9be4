"""Listings over many jobs, over large ones, and over those of an earlier version; and what an idle scheduler does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from ladle_contracts import JobRecord, JobState, keys
from ladle_contracts.transitions import SCRIPTS
from ladle_service.scheduler import Scheduler
from ladle_service.store import PAGE_BYTES, JobStore
from tests.integration.machine import SPEC, Machine, disagreements
from tests.integration.test_state_machine import Recorder
from tests.servers import RedisServer

MANY = 10_000
OWNERS = ("ann", "bob", "cyd")
MOST_TRIPS = 20


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[tuple[JobStore, Any]]:
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        yield JobStore(redis, redis), redis


async def listed(store: JobStore, **filters: Any) -> list[JobRecord]:
    """Every page."""
    found: list[JobRecord] = []
    cursor = None
    while True:
        page = await store.list(**filters, cursor=cursor)
        assert len(page.jobs) <= filters.get("limit", 50)
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return found


def matching(machine: Machine, owner: str | None, state: str | None, labels: dict[str, str]) -> list[str]:
    """The ids that a listing must have, found the slow way."""
    found = []
    for job in machine.redis.zrevrange(keys.JOBS, 0, -1):
        fields = machine.redis.hmget(keys.job(job), ["owner", "state", "spec"])
        own = json.loads(fields[2])["labels"]
        if owner in (None, fields[0]) and state in (None, fields[1]) and labels.items() <= own.items():
            found.append(job)
    return found


def run_rounds(server: RedisServer, rounds: int) -> Recorder:
    """An elected scheduler's rounds."""
    wakes = Recorder()

    async def use() -> None:
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            await redis.delete(keys.SCHEDULER_LOCK)
            scheduler = Scheduler(redis, wakes)
            for _ in range(rounds):
                assert await scheduler.tick()

    asyncio.run(use())
    return wakes


def forget_indexes(machine: Machine) -> None:
    """Redis as a version without indexes leaves it."""
    redis = machine.redis
    for pattern in ("state:*", "owner:*:state:*", "lane*", "finished*", "indexed"):
        for key in redis.scan_iter(keys.PREFIX + pattern):
            redis.delete(key)
    for job in redis.zrange(keys.JOBS, 0, -1):
        redis.hdel(keys.job(job), "labelled", *[name for name in redis.hkeys(keys.job(job)) if name[:6] == "label:"])


@pytest.fixture(scope="module")
def many(shared_server: RedisServer) -> Iterator[Machine]:
    """Ten thousand jobs: some labels are those of all, one is of each job alone. One in a hundred was cancelled."""
    with shared_server.client() as client:
        client.flushall()
    machine = Machine(shared_server)
    same = {f"same-{number}": "x" for number in range(19)}
    submit, cancel = (machine.redis.script_load(SCRIPTS[name]) for name in ("submit", "cancel"))
    with machine.redis.pipeline(transaction=False) as pipe:
        for number in range(MANY):
            spec = json.dumps({**SPEC, "labels": {**same, "number": str(number), "even": str(number % 2)}})
            pipe.evalsha(submit, 0, f"job-{number:05}", OWNERS[number % 3], spec, 0, 1, 1, 3, "", "", 1000)
            if number % 100 == 0:
                pipe.evalsha(cancel, 0, f"job-{number:05}")
        pipe.execute()
    run_rounds(shared_server, 30)
    assert machine.redis.exists(keys.INDEXED)
    yield machine
    machine.redis.close()


FILTERS: list[tuple[dict[str, Any], int]] = [
    ({"owner": None}, MANY),
    ({"owner": "ann"}, 3334),
    ({"owner": "nobody"}, 0),
    ({"owner": None, "state": JobState.CANCELLED}, 100),
    ({"owner": "bob", "state": JobState.CANCELLED}, 33),
    ({"owner": None, "state": JobState.RUNNING}, 0),
    ({"owner": None, "labels": {"same-3": "x"}}, MANY),
    ({"owner": None, "labels": {"number": "17"}}, 1),
    ({"owner": "ann", "labels": {"number": "17"}}, 0),
    ({"owner": None, "labels": {"number": "none"}}, 0),
    ({"owner": None, "labels": {"no such name": ""}}, 0),
    ({"owner": None, "state": JobState.CANCELLED, "labels": {"even": "1"}}, 0),
    ({"owner": None, "labels": {f"same-{number}": "x" for number in range(19)} | {"number": "none"}}, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("filters", "count"), FILTERS, ids=[str(filters)[:70] for filters, _ in FILTERS])
def test_any_filter_over_ten_thousand_jobs_takes_a_few_round_trips(
    many: Machine, shared_server: RedisServer, filters: dict[str, Any], count: int
) -> None:
    async def use() -> None:
        async with opened(shared_server) as (store, redis):
            await store.list(**filters)  # the script is known from now on
            before = await redis.info("stats")
            page = await store.list(**filters)
            after = await redis.info("stats")
            trips = after["total_reads_processed"] - before["total_reads_processed"] - 1
            assert trips < MOST_TRIPS
            assert len(page.jobs) == min(count, 50)
            assert (page.next_cursor is not None) == (count > 50)
            found = await listed(store, **filters, limit=500)
            assert len(found) == len({record.id for record in found}) == count
            assert sorted(found, key=lambda record: (record.created_at, record.id), reverse=True) == found

    asyncio.run(use())


def test_a_listing_that_looks_at_too_much_says_where_it_goes_on(
    many: Machine, shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle_service.store.LOOK_JOBS", 700)
    monkeypatch.setattr("ladle_service.store.LOOKS", 3)

    async def use() -> None:
        async with opened(shared_server) as (store, _):
            first = await store.list(None, labels={"number": "17"})
            assert not first.jobs
            assert first.next_cursor is not None
            found = await listed(store, owner=None, labels={"number": "17"})
            assert [record.spec.labels["number"] for record in found] == ["17"]

    asyncio.run(use())


def mixed(machine: Machine) -> None:
    """Jobs of two owners in many states."""
    for name in ("a", "b"):
        machine.node(name)
    for number in range(24):
        job = machine.submit(owner=OWNERS[number % 2], labels={"third": str(number % 3), "é=": "=\n\0"[: number % 4]})
        if number % 4 == 1 and machine.schedule(job)[0] == "scheduled":
            node = json.loads(machine.field(job, "nodes"))[0]
            machine.claim(job, 1, node)
            if number % 8 == 1:
                machine.end(job, 1, "failed", "crashed")
        if number % 5 == 0:
            machine.call("cancel", job)


@pytest.mark.parametrize("limit", [1, 3, 500])
@pytest.mark.parametrize("has_indexes", [True, False], ids=["indexed", "of an earlier version"])
def test_every_filter_finds_what_a_look_at_each_job_finds(machine: Machine, limit: int, has_indexes: bool) -> None:
    mixed(machine)
    run_rounds(machine.server, 1)
    if not has_indexes:
        forget_indexes(machine)

    async def use() -> None:
        async with opened(machine.server) as (store, _):
            for owner in (None, "ann", "bob"):
                for state in (None, *JobState):
                    for labels in ({}, {"third": "1"}, {"third": "1", "é=": "="}, {"third": "9"}):
                        found = await listed(store, owner=owner, state=state, labels=labels, limit=limit)
                        assert [each.id for each in found] == matching(machine, owner, state, labels), (state, labels)

    asyncio.run(use())


def test_jobs_of_an_earlier_version_are_indexed_by_the_next_scheduler_and_start_in_order(machine: Machine) -> None:
    mixed(machine)
    waiting = machine.redis.zrange(keys.QUEUE, 0, -1)
    assert len(waiting) > 5
    forget_indexes(machine)
    assert disagreements(machine.redis)
    wakes = run_rounds(machine.server, 2)
    assert disagreements(machine.redis) == []
    assert machine.redis.exists(keys.INDEXED)
    assert [job for _, job, _ in wakes.woken if job in waiting] == waiting[: len(wakes.woken)]
    for job in machine.redis.smembers(keys.ACTIVE) - {job for _, job, _ in wakes.woken}:
        machine.end(job, 1, "succeeded")
    machine.fence = machine.redis.get(keys.SCHEDULER_FENCE)
    at_work = {machine.field(job, "owner") for _, job, _ in wakes.woken}
    others = [job for job in waiting if machine.field(job, "owner") not in at_work]
    assert machine.next_job() == others[0]


def test_what_an_earlier_version_does_beside_this_one_is_put_right(machine: Machine) -> None:
    """During an upgrade: it submits, cancels and ends jobs, and knows no indexes."""
    redis = machine.redis
    submitted, cancelled, ended = machine.submit(labels={"run": "1"}), machine.submit(), machine.submit()
    machine.node("a")
    machine.schedule(ended)
    run_rounds(machine.server, 1)
    for key in (keys.state_jobs("queued"), keys.owner_state_jobs("me", "queued"), keys.lane("me")):
        redis.zrem(key, submitted)
    redis.hdel(keys.job(submitted), "labelled", "label:run")
    redis.hset(keys.job(cancelled), mapping={"state": "cancelled", "finished_at": 5})
    redis.zrem(keys.QUEUE, cancelled)
    redis.hset(keys.job(ended), mapping={"state": "succeeded", "finished_at": 6})
    redis.srem(keys.ACTIVE, ended)
    redis.hset(keys.node("a"), "job", "")

    async def use() -> None:
        async with opened(machine.server) as (store, _):
            assert not (await store.list(None, state=JobState.SCHEDULED)).jobs, "no job is shown in a state it left"
            assert [job.id for job in (await store.list(None, labels={"run": "1"})).jobs] == [submitted]

    asyncio.run(use())
    assert [job for _, job, _ in run_rounds(machine.server, 2).woken] == [submitted], "it is not forgotten"
    assert disagreements(redis) == []


async def seen_on_pages(store: JobStore, change: Callable[[str], None]) -> list[str]:
    """What one sees who changes each job that a page shows, before the next page."""
    seen: list[str] = []
    cursor = None
    while True:
        page = await store.list("me", state=JobState.QUEUED, cursor=cursor, limit=3)
        seen += [record.id for record in page.jobs]
        for record in page.jobs:
            change(record.id)
        cursor = page.next_cursor
        if cursor is None:
            return seen


@pytest.mark.parametrize("change", ["cancel", "cancel and delete", "nothing"])
def test_paging_goes_on_though_the_jobs_of_the_page_before_have_left(machine: Machine, change: str) -> None:
    jobs = [machine.submit() for _ in range(20)]
    # All in the same millisecond, so that only the ids tell them apart.
    for job in jobs:
        machine.redis.hset(keys.job(job), "created_at", 1_700_000_000_000)
        for key in (keys.JOBS, keys.owner_jobs("me"), keys.state_jobs("queued"), keys.owner_state_jobs("me", "queued")):
            machine.redis.zadd(key, {job: 1_700_000_000_000})

    def leave(job: str) -> None:
        for script in ("cancel", "delete"):
            if script in change:
                machine.call(script, job)

    async def use() -> None:
        async with opened(machine.server) as (store, _):
            assert await seen_on_pages(store, leave) == sorted(jobs, reverse=True)

    run_rounds(machine.server, 1)
    asyncio.run(use())


def test_a_page_of_large_jobs_is_bounded_and_the_pages_after_it_have_the_rest(machine: Machine) -> None:
    """As an earlier version accepted them: label names of a megabyte, and options that are nested too deep."""
    deep: Any = 1
    for _ in range(198):
        deep = [deep]
    for number in range(30):
        machine.submit()
        spec = {**SPEC, "labels": {"n" * (1 << 20): "x"}, "method": {"name": "twa", "options": {"deep": deep}}}
        machine.redis.hset(keys.job(f"job-{number + 1}"), "spec", json.dumps(spec))

    async def use() -> None:
        async with opened(machine.server) as (store, redis):
            before = (await redis.info("stats"))["total_net_output_bytes"]
            page = await store.list(None, limit=500)
            sent = (await redis.info("stats"))["total_net_output_bytes"] - before
            assert sent < PAGE_BYTES + (2 << 20), "a page, and the job with which it is full"
            assert 1 <= len(page.jobs) <= 4
            found = await listed(store, owner=None, limit=500)
            assert len({record.id for record in found}) == 30
            assert found[0].spec.ckpt_dir == "/c"
            assert not found[0].spec.labels, "what no version accepts any more is left out"

    asyncio.run(use())


@pytest.mark.parametrize("changed", [{"result": "{}"}, {"attempt": "first"}])
def test_a_job_that_this_version_cannot_read_does_not_hide_the_others(
    machine: Machine, changed: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [machine.submit() for _ in range(3)]
    machine.redis.hset(keys.job(jobs[1]), mapping=changed)

    async def use() -> None:
        async with opened(machine.server) as (store, _):
            assert [record.id for record in await listed(store, owner=None, limit=1)] == [jobs[2], jobs[0]]

    asyncio.run(use())
    assert f"job {jobs[1]} is not listed" in caplog.text


def test_an_idle_scheduler_writes_nothing_and_its_work_does_not_grow_with_the_queue(machine: Machine) -> None:
    machine.node("a", ranks=2)
    for _ in range(300):
        machine.submit(ranks=4)
    busy = machine.submit(ranks=2, priority=100)
    assert machine.schedule(busy)[0] == "scheduled"
    machine.claim(busy, 1, "a")
    machine.submit(ranks=2)

    async def commands_and_changes() -> tuple[int, int]:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            await redis.delete(keys.SCHEDULER_LOCK)
            scheduler = Scheduler(redis, Recorder())
            for _ in range(3):
                await scheduler.tick()
            counts = []
            for _ in range(2):
                stats = {**await redis.info("stats"), **await redis.info("persistence")}
                counts.append((stats["total_commands_processed"], stats["rdb_changes_since_last_save"]))
                for _ in range(10):
                    await scheduler.tick()
            return counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]

    commands, changes = asyncio.run(commands_and_changes())
    assert changes == 0
    for _ in range(300):
        machine.submit(ranks=4)
    assert asyncio.run(commands_and_changes()) == (commands, 0)


def test_a_queued_job_says_what_it_waits_for_and_what_it_says_is_up_to_date(machine: Machine) -> None:
    machine.node("a")
    machine.node("b")
    # Two jobs of one millisecond are in any order.
    held, pair, large = machine.submit(), machine.submit(nodes=2, priority=1), machine.submit(ranks=4)
    machine.schedule(held)

    async def waits() -> list[str | None]:
        async with opened(machine.server) as (store, _):
            listing = {record.id: record for record in (await store.list(None)).jobs}
            for job, record in listing.items():
                assert await store.get(job, None) == record
            return [listing[job].waiting_for for job in (held, pair, large)]

    too_large = "needs 1 node of 4 ranks, 0 free of 0"
    assert asyncio.run(waits()) == [None, "needs 2 nodes, 1 free of 2", too_large]
    machine.call("leave", "b")
    assert asyncio.run(waits()) == [None, "needs 2 nodes, 0 free of 1", too_large]
    machine.node("b", ranks=4)
    assert asyncio.run(waits()) == [None, "needs 2 nodes, 1 free of 2", "is behind 1 other job"]
