"""Which queued job starts next, on a real Redis: ageing, turns of owners, gaps, fewer nodes."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from ladle_contracts import JobRecord, keys
from ladle_service.store import JobStore
from tests.integration.machine import POINT_MS, Machine, disagreements
from tests.servers import RedisServer

HOUR_S = 3600
MINUTE_MS = 60_000


def named(machine: Machine, *names: str, ranks: int = 1) -> None:
    for name in names:
        machine.node(name, ranks=ranks)


def start(machine: Machine, job: str) -> None:
    """Every node of a job that has just been placed claims it."""
    attempt = int(machine.field(job, "attempt"))
    for node in json.loads(machine.field(job, "nodes")):
        assert machine.claim(job, attempt, node) == "ok"


def finish(machine: Machine, job: str) -> None:
    start(machine, job)
    assert machine.end(job, int(machine.field(job, "attempt")), "succeeded") == "succeeded"


def make_older(machine: Machine, job: str, by_ms: int) -> None:
    """As if it had been submitted earlier."""
    for field in ("created_at", "queued_at"):
        machine.redis.hincrby(keys.job(job), field, -by_ms)
    for pattern in ("jobs", "owner:*", "state:*", "queue", "lane:*"):
        for key in machine.redis.scan_iter(keys.PREFIX + pattern):
            machine.redis.zadd(key, {job: -by_ms}, incr=True, xx=True)


def order(machine: Machine) -> list[str]:
    """One node runs one job after the other."""
    started = []
    while placed := machine.place():
        for job in placed:
            started.append(job)
            finish(machine, job)
    return started


def record(machine: Machine, job: str) -> JobRecord:
    async def read() -> JobRecord:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            found = await JobStore(redis, redis).get(job, None)
            assert found is not None
            return found

    return asyncio.run(read())


def test_a_point_of_priority_is_worth_ten_minutes_so_a_low_one_is_not_starved(machine: Machine) -> None:
    named(machine, "a")
    low = machine.submit(priority=-100)
    normal = machine.submit()
    high = machine.submit(priority=1)
    patient = machine.submit()
    make_older(machine, patient, POINT_MS + MINUTE_MS)
    assert order(machine) == [patient, high, normal, low]
    low, high = machine.submit(priority=-100), machine.submit(priority=100)
    make_older(machine, low, 201 * POINT_MS)
    assert order(machine) == [low, high]


def test_a_job_that_is_tried_again_keeps_its_place(machine: Machine) -> None:
    named(machine, "a")
    first, second = machine.submit(), machine.submit()
    assert list(machine.place()) == [first]
    start(machine, first)
    machine.end(first, 1, "released")
    assert order(machine) == [first, second]


def test_500_jobs_of_one_owner_do_not_starve_the_only_one_of_another(machine: Machine) -> None:
    named(machine, "a", "b")
    for _ in range(500):
        machine.submit(owner="ann")
    # Several may be of one millisecond.
    many = machine.redis.zrange(keys.QUEUE, 0, -1)
    assert list(machine.place()) == many[:2]
    one = machine.submit(owner="bob", priority=-100)
    finish(machine, many[0])
    assert list(machine.place()) == [many[2]], "it has waited for the node already"
    finish(machine, many[1])
    assert list(machine.place()) == [one]
    finish(machine, one)
    assert list(machine.place()) == [many[3]], "and then it is the first one's turn again"


def test_owners_take_turns_where_there_is_one_node(machine: Machine) -> None:
    named(machine, "a")
    ann, bob = ([machine.submit(owner=owner) for _ in range(3)] for owner in ("ann", "bob"))
    assert order(machine) == [ann[0], bob[0], ann[1], bob[1], ann[2], bob[2]]


def test_owners_get_equally_many_nodes_whatever_the_size_of_their_jobs(machine: Machine) -> None:
    named(machine, *(f"n{number}" for number in range(8)))
    large = [machine.submit(owner="ann", nodes=2) for _ in range(4)]
    small = [machine.submit(owner="bob") for _ in range(8)]
    placed = machine.place()
    assert sum(len(placed.get(job, [])) for job in large) == sum(len(placed.get(job, [])) for job in small) == 4


def test_a_priority_orders_the_jobs_of_its_owner_and_gives_no_nodes_of_others(machine: Machine) -> None:
    named(machine, "a", "b")
    ann = [machine.submit(owner="ann", priority=100) for _ in range(3)]
    bob = machine.submit(owner="bob")
    assert list(machine.place()) == [ann[0], bob]


def test_a_job_that_waits_for_its_nodes_is_not_overtaken_by_owners_with_fewer_nodes(machine: Machine) -> None:
    """Else jobs of a single node that come one after the other would keep it waiting for ever."""
    named(machine, "a", "b")
    held = machine.submit(owner="ann")
    assert list(machine.place()) == [held]
    large = machine.submit(owner="ann", nodes=2)
    assert machine.place() == {}
    small = machine.submit(owner="bob")
    assert machine.place() == {}, "bob has no node, and one is free, but the large job has waited for it"
    finish(machine, held)
    assert list(machine.place()) == [large]
    finish(machine, large)
    assert list(machine.place()) == [small]


def test_an_earlier_place_comes_before_a_job_that_waits_for_its_nodes(machine: Machine) -> None:
    named(machine, "a", "b")
    held, large = machine.submit(), machine.submit(nodes=2)
    assert list(machine.place()) == [held]
    urgent = machine.submit(priority=50)
    assert list(machine.place()) == [urgent]
    assert machine.redis.get(keys.HEAD) == large


@pytest.mark.parametrize("gone", ["cancelled", "impossible", "backs off"])
def test_a_job_that_no_longer_waits_for_nodes_holds_up_nobody(machine: Machine, gone: str) -> None:
    named(machine, "a", "b")
    held, large, small = machine.submit(), machine.submit(nodes=2), machine.submit()
    assert list(machine.place()) == [held]
    if gone == "cancelled":
        machine.call("cancel", large)
    elif gone == "impossible":
        machine.call("leave", "a")
    else:
        seconds, _ = machine.redis.time()
        machine.redis.hset(keys.job(large), "not_before", (seconds + 30) * 1000)
    assert list(machine.place()) == [small]


# Gaps


def running_with_limit(machine: Machine, timeout_s: float | None) -> str:
    """On one of two nodes; the next job waits for both."""
    named(machine, "a", "b")
    held = machine.submit(timeout_s=timeout_s)
    assert list(machine.place()) == [held]
    start(machine, held)
    large = machine.submit(nodes=2)
    assert machine.place() == {}
    return large


def test_a_job_that_is_over_before_the_next_one_can_start_at_the_latest_fills_the_gap(machine: Machine) -> None:
    large = running_with_limit(machine, HOUR_S)
    too_long, unlimited, short = (
        machine.submit(timeout_s=HOUR_S),
        machine.submit(),
        machine.submit(timeout_s=HOUR_S / 2),
    )
    assert machine.place() == {short: ["b"]}
    finish(machine, short)
    assert machine.place() == {}
    assert machine.field(short, "in_gap") == "1"
    assert {machine.field(job, "state") for job in (large, too_long, unlimited)} == {"queued"}


def test_time_that_earlier_attempts_took_counts_in_a_gap(machine: Machine) -> None:
    running_with_limit(machine, HOUR_S)
    tried = machine.submit(timeout_s=2 * HOUR_S)
    assert machine.place() == {}
    machine.redis.hset(keys.job(tried), "ran_ms", round(1.5 * HOUR_S * 1000))
    assert machine.place() == {tried: ["b"]}


def test_without_time_limits_nothing_is_certain_and_no_gap_is_filled(machine: Machine) -> None:
    running_with_limit(machine, None)
    machine.submit(timeout_s=1)
    assert machine.place() == {}


def test_nodes_that_the_next_job_cannot_use_are_for_others(machine: Machine) -> None:
    named(machine, "small-1", "small-2")
    named(machine, "large", ranks=8)
    held, head = machine.submit(ranks=8), machine.submit(ranks=8)
    assert list(machine.place()) == [held]
    others = [machine.submit(owner="ann"), machine.submit(owner="ann"), machine.submit(owner="bob")]
    placed = machine.place()
    assert set(placed) == {others[0], others[2]}, "owners take turns in gaps too"
    assert {node for nodes in placed.values() for node in nodes} == {"small-1", "small-2"}
    finish(machine, held)
    assert machine.place() == {head: ["large"]}


# Fewer nodes


def test_a_job_starts_with_fewer_nodes_when_no_more_are_free_after_a_while(machine: Machine) -> None:
    named(machine, "a", "b", "c")
    held = machine.submit()
    assert list(machine.place()) == [held]
    job = machine.submit(nodes=3, min_nodes=2)
    assert machine.place() == {}
    make_older(machine, job, 3 * MINUTE_MS)
    assert machine.place() == {job: ["b", "c"]}
    start(machine, job)
    assert machine.field(job, "state") == "running"


def test_a_job_starts_with_fewer_nodes_at_once_when_no_more_are_there(machine: Machine) -> None:
    named(machine, "a", "b", "c")
    job = machine.submit(nodes=3, min_nodes=1)
    assert machine.place() == {job: ["a", "b", "c"]}
    start(machine, job)
    machine.call("leave", "c")
    machine.end(job, 1, "released")
    assert machine.place() == {job: ["a", "b"]}, "it goes on with what is left"


def test_a_job_with_too_few_nodes_for_its_least_holds_up_nobody(machine: Machine) -> None:
    named(machine, "a")
    machine.submit(nodes=4, min_nodes=2)
    small = machine.submit()
    assert machine.place() == {small: ["a"]}


def test_a_dispatcher_takes_the_full_number_rather_than_nodes_that_are_too_few(machine: Machine) -> None:
    named(machine, "a")
    machine.dispatcher("slurm", holds=1)
    job = machine.submit(nodes=3, min_nodes=1)
    assert machine.place() == {job: ["slurm"]}
    assert machine.field(job, "took") == "3"


# Why it waits


def test_a_queued_job_says_its_position_and_about_when_it_starts(machine: Machine) -> None:
    named(machine, "a")
    held, second, third = (machine.submit() for _ in range(3))
    assert list(machine.place()) == [held]
    start(machine, held)
    found = record(machine, third)
    assert (found.queue_position, found.starts_in_s) == (2, None), "no job has succeeded, so nothing is known"
    assert found.waiting_for == "needs 1 node, 0 free of 1"
    seconds, _ = machine.redis.time()
    machine.redis.hset(keys.job(held), "running_since", (seconds - 100) * 1000)
    machine.redis.hset(keys.job(held), "started_at", (seconds - 100) * 1000)
    machine.end(held, 1, "succeeded")
    assert list(machine.place()) == [second]
    start(machine, second)
    found = record(machine, third)
    assert found.queue_position == 1
    assert found.starts_in_s == pytest.approx(100, abs=30)
    assert record(machine, second).queue_position is None


def test_the_position_counts_the_turns_of_other_owners(machine: Machine) -> None:
    named(machine, "a")
    held = machine.submit(owner="cyd")
    assert list(machine.place()) == [held]
    ann = [machine.submit(owner="ann") for _ in range(5)]
    bob = [machine.submit(owner="bob") for _ in range(2)]
    for job in ann:
        make_older(machine, job, 1000)
    positions = {job: record(machine, job).queue_position for job in (*ann, *bob)}
    assert [positions[job] for job in ann] == [1, 3, 5, 6, 7]
    assert [positions[job] for job in bob] == [2, 4]
    assert [positions[job] for job in order_after(machine, held)] == sorted(positions.values())


def order_after(machine: Machine, held: str) -> list[str]:
    finish(machine, held)
    return order(machine)


@pytest.mark.parametrize("state", ["behind", "fewer", "tried again", "no room"])
def test_a_job_says_in_words_why_it_waits(machine: Machine, state: str) -> None:
    named(machine, "a", "b")
    held = machine.submit()
    assert list(machine.place()) == [held]
    if state == "behind":
        machine.submit(nodes=2)
        machine.place()
        expected = "is behind 1 other job, and the next one needs 2 nodes, 1 free of 2"
        job = machine.submit()
    elif state == "fewer":
        job = machine.submit(nodes=2, min_nodes=1)
        expected = "needs 2 nodes, 1 free of 2; with 1 it starts in 120 s"
    elif state == "no room":
        machine.dispatcher("slurm", holds=1)
        machine.schedule(machine.submit(nodes=3))
        job = machine.submit(nodes=3)
        expected = "needs 3 nodes, 1 free of 2, and no dispatcher has room"
    else:
        job = machine.submit()
        seconds, _ = machine.redis.time()
        machine.redis.hset(keys.job(job), "not_before", (seconds + 30) * 1000)
        expected = "is tried again in 30 s"
    said = record(machine, job).waiting_for or ""
    assert said.replace("119", "120").replace("29 s", "30 s") == expected


# Nobody starves


jobs = st.fixed_dictionaries(
    {
        "owner": st.sampled_from(["ann", "bob", "cyd"]),
        "nodes": st.integers(1, 4),
        "ranks": st.sampled_from([0, 1, 2]),
        "priority": st.integers(-100, 100),
        "least": st.integers(1, 4),
        "timeout_s": st.sampled_from([None, 60, HOUR_S, 10 * HOUR_S]),
    }
)


@given(queue=st.lists(jobs, min_size=1, max_size=8), seed=st.integers(0, 2**16))
@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_job_starts_though_small_ones_of_others_never_stop_coming(
    shared_server: RedisServer, queue: list[dict[str, int]], seed: int
) -> None:
    """Four nodes, two of them of two ranks. Beside the queue, two owners always have some more small jobs there."""
    with shared_server.client() as client:
        client.flushall()
    machine, chance = Machine(shared_server), random.Random(seed)
    named(machine, "a", "b")
    named(machine, "c", "d", ranks=2)
    waiting = set()
    for about in queue:
        least = about.pop("least")
        about["nodes"] = min(about["nodes"], 2) if about["ranks"] == 2 else about["nodes"]
        waiting.add(machine.submit(**about, min_nodes=min(least, about["nodes"])))  # type: ignore[arg-type]
    busy: set[str] = set()
    for _ in range(40 * (len(queue) + 1)):
        for owner in ("bob", "dan"):
            while machine.redis.zcard(keys.owner_state_jobs(owner, "queued")) < len(queue) + 2:
                machine.submit(owner=owner, priority=0, timeout_s=chance.choice([None, 60]))
        for job in machine.place():
            start(machine, job)
            busy.add(job)
        waiting -= busy
        if not waiting:
            break
        for job in waiting:
            make_older(machine, job, 4 * HOUR_S * 1000)
        ended = chance.choice(sorted(busy))
        machine.end(ended, 1, "succeeded")
        busy.remove(ended)
    assert not waiting
    assert disagreements(machine.redis) == []
    machine.redis.close()
