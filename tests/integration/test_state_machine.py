"""The Lua state machine on a real Redis: reservations, fencing, leases, elections. Tests speak for the nodes."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError
from redis.asyncio import Redis

from ladle_contracts import JobState, keys
from ladle_service.scheduler import LOCK_MS, Scheduler
from ladle_service.store import JobStore
from ladle_service.wake import Waker
from tests.integration.machine import EXPIRED, LEASE_MS, NODE_LIFE_MS, Machine
from tests.polling import DEADLINE_S, SOON_S, until


def test_a_job_gets_all_the_nodes_it_needs_or_none(machine: Machine) -> None:
    for name in ("a", "b", "c"):
        machine.node(name)
    small, large = machine.submit(), machine.submit(nodes=3)
    assert machine.schedule(small) == ["scheduled", "1", "a"]
    assert machine.schedule(large) == ["busy"]
    assert [machine.holder(name) for name in ("a", "b", "c")] == [small, "", ""], "nothing is held while waiting"
    assert machine.supply() == (2, 3)
    assert machine.field(large, "attempt") == "0"
    assert machine.claim(small, 1, "a") == "ok"
    assert machine.finalize(small, 1) == "ok"
    assert machine.end(small, 1, "succeeded") == "succeeded"
    assert machine.schedule(large) == ["scheduled", "1", "a", "b", "c"]
    assert {machine.holder(name) for name in ("a", "b", "c")} == {large}
    # It runs only when the last of its nodes has claimed.
    assert [machine.claim(large, 1, name) for name in ("a", "b")] == ["ok", "ok"]
    assert machine.field(large, "state") == "scheduled"
    assert machine.claim(large, 1, "c") == "ok"
    assert machine.field(large, "state") == "running"


def test_two_jobs_that_need_each_others_nodes_do_not_lock_each_other(machine: Machine) -> None:
    """With one node a step each would hold one and wait for the other for ever."""
    for name in ("a", "b", "c"):
        machine.node(name)
    one, two = machine.submit(nodes=2), machine.submit(nodes=2)
    assert machine.schedule(one)[0] == "scheduled"
    assert machine.schedule(two) == ["busy"]
    assert [machine.holder(name) for name in ("a", "b", "c")] == [one, one, ""]


def test_too_few_machines_let_those_behind_go_first_and_too_few_free_ones_do_not(machine: Machine) -> None:
    machine.node("a", ranks=2)
    impossible, small = machine.submit(ranks=4), machine.submit()
    assert machine.schedule(impossible) == ["impossible"]
    assert (machine.supply(ranks=4), machine.supply()) == ((0, 0), (1, 1))
    assert machine.schedule(small)[0] == "scheduled"
    assert machine.schedule(machine.submit()) == ["busy"]


def test_a_dispatcher_takes_whole_jobs_of_any_size_until_it_has_no_room(machine: Machine) -> None:
    machine.dispatcher("slurm", holds=2)
    jobs = [machine.submit(nodes=8, ranks=4), machine.submit(), machine.submit()]
    assert machine.schedule(jobs[0]) == ["scheduled", "1", "slurm"]
    assert machine.schedule(jobs[1]) == ["scheduled", "1", "slurm"]
    assert machine.schedule(jobs[2]) == ["busy"]
    assert machine.held("slurm") == set(jobs[:2])
    # It is the job's only node.
    assert machine.claim(jobs[0], 1, "slurm") == "ok"
    assert machine.field(jobs[0], "state") == "running"
    assert machine.call("meet", jobs[0], 1, "slurm", LEASE_MS, "here") == ["ok", "here"]
    assert machine.call("renew", jobs[0], 1, "slurm", LEASE_MS) == "ok"
    assert machine.claim(jobs[1], 1, "slurm") == "ok"
    assert machine.end(jobs[1], 1, "succeeded") == "succeeded"
    assert machine.held("slurm") == {jobs[0]}
    assert machine.schedule(jobs[2]) == ["scheduled", "1", "slurm"]


@pytest.mark.parametrize("lost", ["renewals", "restart", "claim"])
def test_the_jobs_of_a_dispatcher_that_is_gone_go_back_to_the_queue(machine: Machine, lost: str) -> None:
    machine.dispatcher("slurm", holds=2)
    jobs = [machine.submit(), machine.submit()]
    for job in jobs:
        machine.call("schedule", machine.fence, job, EXPIRED if lost == "claim" else 30_000, NODE_LIFE_MS)
        if lost != "claim":
            machine.claim(job, 1, "slurm", lease_ms=EXPIRED if lost == "renewals" else LEASE_MS)
    if lost == "restart":
        assert [machine.reap(job) for job in jobs] == ["alive", "alive"]
        machine.dispatcher("slurm", holds=2)
    assert [machine.reap(job) for job in jobs] == ["queued", "queued"]
    assert not machine.held("slurm")
    assert machine.schedule(jobs[0]) == ["scheduled", "2", "slurm"]


def test_own_nodes_come_before_a_dispatcher_and_of_dispatchers_the_emptiest(machine: Machine) -> None:
    for name in ("slurm-1", "slurm-2"):
        machine.dispatcher(name, holds=3)
    machine.node("a")
    given = [machine.schedule(machine.submit())[2:] for _ in range(4)]
    assert given == [["a"], ["slurm-1"], ["slurm-2"], ["slurm-1"]]


def test_a_job_that_names_no_ranks_fits_every_node(machine: Machine) -> None:
    machine.node("a", ranks=1)
    machine.node("b", ranks=8)
    assert machine.schedule(machine.submit(nodes=2, ranks=0)) == ["scheduled", "1", "a", "b"]


def test_a_cordoned_node_gets_no_job(machine: Machine) -> None:
    machine.node("a")
    machine.node("b")
    machine.redis.hset(keys.node("a"), "cordoned", "three failures")
    assert machine.schedule(machine.submit()) == ["scheduled", "1", "b"]
    assert machine.schedule(machine.submit(nodes=2)) == ["impossible"]
    machine.redis.hset(keys.node("a"), "cordoned", "")
    assert machine.schedule(machine.submit()) == ["scheduled", "1", "a"]


def test_a_dispatcher_is_listed_with_the_jobs_that_it_holds(machine: Machine) -> None:
    machine.call("register", "slurm", "id", "slurm", "host", "h", "ranks", 0, "gpus", "[]", "version", "1",
                 *("torch_version", "2", "catalog", "{}", "dispatches", "1", "holds", "16"))  # fmt: skip
    jobs = [machine.submit(), machine.submit()]
    for job in jobs:
        machine.schedule(job)

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            (node,) = await JobStore(redis, redis).nodes()
            assert (node.dispatches, node.holds, node.job_id, node.job_ids) == (True, 16, None, tuple(jobs))

    asyncio.run(use())


def test_the_queue_goes_by_priority_and_then_by_age(machine: Machine) -> None:
    first, low, second, high = (
        machine.submit(), machine.submit(priority=-5), machine.submit(), machine.submit(priority=100),
    )  # fmt: skip
    assert machine.redis.zrange(keys.QUEUE, 0, -1) == [high, first, second, low]


def test_an_attempt_that_was_replaced_can_do_nothing_more(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    assert machine.claim(job, 1, "a", lease_ms=EXPIRED) == "ok"
    assert machine.reap(job) == "queued"
    assert machine.field(job, "node_failures") == "1"
    assert machine.schedule(job) == ["scheduled", "2", "a"]
    assert machine.claim(job, 2, "a") == "ok"
    before = machine.redis.hgetall(keys.job(job)), machine.redis.xlen(keys.events(job))
    assert machine.call("renew", job, 1, "a", LEASE_MS) == "lost"
    assert (
        machine.call("report", job, 1, 10, '{"stage":"x"}', 1, "", '{"kind":"warning","message":"m"}', "line") == "lost"
    )
    assert machine.finalize(job, 1) == "lost"
    for outcome in ("succeeded", "failed", "crashed", "released"):
        assert machine.end(job, 1, outcome) == "lost"
    assert machine.claim(job, 1, "a") == "stale"
    assert (machine.redis.hgetall(keys.job(job)), machine.redis.xlen(keys.events(job))) == before
    assert machine.redis.llen(keys.log(job)) == 0
    # And the one that is current can.
    assert machine.finalize(job, 2) == "ok"
    assert machine.end(job, 2, "succeeded") == "succeeded"


def test_a_node_that_was_not_given_the_job_cannot_claim_it_and_nobody_claims_twice(machine: Machine) -> None:
    machine.node("a")
    machine.node("b")
    job = machine.submit()
    machine.schedule(job)
    assert machine.claim(job, 1, "b") == "stale"
    assert machine.claim(job, 1, "a") == "ok"
    assert machine.claim(job, 1, "a") == "stale", "it runs already: a second delivery of the message does nothing"


def test_a_claim_whose_answer_was_lost_is_repeated_by_the_same_process_only(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    first = machine.call("claim", job, 1, "a", LEASE_MS, "token-1")
    assert first[0] == "ok"
    assert machine.call("claim", job, 1, "a", LEASE_MS, "token-1") == first
    assert machine.call("claim", job, 1, "a", LEASE_MS, "token-2")[0] == "stale"
    assert machine.call("claim", job, 1, "a", LEASE_MS, "")[0] == "stale"
    machine.end(job, 1, "released")
    assert machine.call("claim", job, 1, "a", LEASE_MS, "token-1")[0] == "stale"
    machine.schedule(job)
    assert machine.call("claim", job, 1, "a", LEASE_MS, "token-1")[0] == "stale"
    assert machine.call("claim", job, 2, "a", LEASE_MS, "token-3")[0] == "ok"


def test_a_scheduler_that_lost_its_lock_changes_nothing(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    old = machine.fence
    machine.redis.delete(keys.SCHEDULER_LOCK)
    new = machine.call("elect", "another", 600_000)
    assert int(new) > int(old)
    assert machine.call("elect", "the-test", 600_000) == "", "one at a time"
    assert machine.schedule(job, fence=old) == ["deposed"]
    assert machine.field(job, "state") == "queued"
    assert machine.schedule(job, fence=new)[0] == "scheduled"
    machine.claim(job, 1, "a", lease_ms=EXPIRED)
    assert machine.reap(job, fence=old) == "deposed"
    assert machine.field(job, "state") == "running"


def test_a_job_that_ends_its_only_node_three_times_ends(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    for attempt, state in ((1, "queued"), (2, "queued"), (3, "failed")):
        assert machine.schedule(job)[0] == "scheduled"
        machine.claim(job, attempt, "a", lease_ms=EXPIRED)
        assert machine.reap(job) == state
    assert machine.field(job, "reason") == "node-lost"
    assert "Node `a` no longer responds." in machine.field(job, "message")
    assert machine.holder("a") == ""
    assert not machine.redis.smembers(keys.ACTIVE)


def test_a_crash_waits_before_it_is_tried_again_and_each_time_longer(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    waits = []
    for attempt in (1, 2):
        machine.redis.hset(keys.job(job), "not_before", 0)
        assert machine.schedule(job)[0] == "scheduled"
        machine.claim(job, attempt, "a")
        now = int(time.time() * 1000)
        assert machine.call("end", job, attempt, "crashed", "crashed", "why", "", "[]", 5_000) == "queued"
        waits.append(int(machine.field(job, "not_before")) - now)
        assert machine.schedule(job) == ["skip"]
    assert 4_000 < waits[0] < 6_000
    assert 9_000 < waits[1] < 11_000


def test_the_running_time_of_all_attempts_is_added_up_and_waiting_is_not(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    for attempt, before in ((1, 0), (2, 5_000)):
        machine.schedule(job)
        machine.claim(job, attempt, "a")
        assert int(machine.field(job, "ran_ms") or 0) in range(before, before + 2_000)
        since = int(machine.field(job, "running_since"))
        machine.redis.hset(keys.job(job), "running_since", since - 5_000)
        machine.end(job, attempt, "released")
        assert machine.field(job, "running_since") is None
    assert int(machine.field(job, "ran_ms")) in range(10_000, 14_000)


def test_a_node_that_goes_away_in_order_costs_no_failure(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit(max_failures=1)
    machine.schedule(job)
    machine.claim(job, 1, "a")
    machine.call("leave", "a")
    assert machine.call("renew", job, 1, "a", LEASE_MS) == "release"
    assert machine.end(job, 1, "released", "node-lost") == "queued"
    assert machine.field(job, "failures") == "0"
    assert machine.schedule(job) == ["impossible"], "a node that left gets no job"


def test_a_node_that_does_not_answer_is_passed_over_for_one_that_may(machine: Machine) -> None:
    machine.node("a")
    machine.node("b")
    job = machine.submit()
    assert machine.call("schedule", machine.fence, job, EXPIRED, NODE_LIFE_MS) == ["scheduled", "1", "a"]
    assert machine.reap(job) == "queued"
    assert machine.schedule(job) == ["scheduled", "2", "b"]
    other = machine.submit()
    assert machine.schedule(other) == ["scheduled", "1", "a"], "where there is no other, it gets another chance"


def test_the_same_submit_again_neither_restarts_the_job_nor_makes_another(machine: Machine) -> None:
    """redis-py sends a script again when the answer got lost."""
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a")
    before = machine.redis.hgetall(keys.job(job)), machine.redis.xlen(keys.events(job))
    assert machine.call("submit", job, "me", "{}", 0, 1, 1, 3, "", "", 1000) == ["created", job]
    assert (machine.redis.hgetall(keys.job(job)), machine.redis.xlen(keys.events(job))) == before
    assert machine.redis.zcard(keys.QUEUE) == 0


def test_an_unclaimed_job_goes_back_to_the_queue_without_a_failure(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.call("schedule", machine.fence, job, EXPIRED, NODE_LIFE_MS)
    assert machine.reap(job) == "queued"
    assert (machine.field(job, "failures"), machine.holder("a")) == ("0", "")


def test_a_cancel_reaches_a_job_in_every_state_but_the_last_ones(machine: Machine) -> None:
    machine.node("a")
    queued = machine.submit()
    machine.call("cancel", queued)
    assert machine.field(queued, "state") == "cancelled"
    running = machine.submit()
    machine.schedule(running)
    machine.claim(running, 1, "a")
    machine.call("cancel", running)
    assert machine.field(running, "state") == "cancelling"
    assert machine.call("renew", running, 1, "a", LEASE_MS) == "cancel"
    assert machine.finalize(running, 1) == "cancel"
    assert machine.end(running, 1, "crashed") == "cancelled", "not tried again"
    late = machine.submit()
    machine.schedule(late)
    machine.claim(late, 1, "a")
    machine.finalize(late, 1)
    machine.call("cancel", late)
    assert machine.field(late, "state") == "finalizing"
    assert machine.end(late, 1, "succeeded") == "succeeded"


@pytest.mark.parametrize("end", ["lost", "crashed", "failed", "released"])
def test_a_cancel_that_is_too_late_for_an_attempt_ends_the_job_if_that_attempt_gives_no_result(
    machine: Machine, end: str
) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a")
    machine.call("finalize", job, 1, "a", EXPIRED if end == "lost" else LEASE_MS)
    machine.call("cancel", job)
    assert machine.field(job, "state") == "finalizing"
    assert (machine.reap(job) if end == "lost" else machine.end(job, 1, end)) == "cancelled"
    assert machine.holder("a") == ""


def test_the_fence_before_a_rename_renews_the_lease_and_is_refused_to_who_has_none(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a", lease_ms=EXPIRED)
    assert machine.finalize(job, 1) == "ok"
    assert machine.reap(job) == "alive"
    assert machine.finalize(job, 1) == "ok", "asked again"
    assert machine.finalize(job, 1, "b") == "lost"
    assert machine.finalize(job, 2) == "lost"


def test_nodes_that_do_not_answer_take_turns(machine: Machine) -> None:
    """A job would otherwise wait for the first of them for ever."""
    machine.node("a")
    machine.node("b")
    job = machine.submit()
    tried = []
    for _ in range(4):
        tried += machine.call("schedule", machine.fence, job, EXPIRED, NODE_LIFE_MS)[2:]
        assert machine.reap(job) == "queued"
        # Each a little later than the one before, within one millisecond too.
        machine.redis.hincrby(keys.node(tried[-1]), "missed_at", len(tried))
    assert tried == ["a", "b", "a", "b"]
    machine.schedule(job)
    assert machine.claim(job, 5, "a") == "ok"
    assert machine.end(job, 5, "succeeded") == "succeeded"
    assert not machine.redis.hexists(keys.node("a"), "missed_at"), "it has answered, and worked"


def test_a_cancelled_job_whose_node_died_ends_all_the_same(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a", lease_ms=EXPIRED)
    machine.call("cancel", job)
    assert machine.reap(job) == "cancelled"
    assert machine.holder("a") == ""


def test_a_report_that_is_sent_twice_is_written_once(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "a")
    body = json.dumps({"kind": "warning", "message": "once"})
    for _ in range(3):
        assert machine.call("report", job, 1, 100, "", 1, "", body, "one", "two") == "ok"
    assert machine.redis.lrange(keys.log(job), 0, -1) == ["one", "two"]
    bodies = [fields["body"] for _, fields in machine.redis.xrange(keys.events(job))]
    assert bodies.count(body) == 1


def test_the_python_names_of_keys_are_those_that_lua_builds(machine: Machine) -> None:
    machine.node("n")
    job = machine.submit()
    machine.schedule(job)
    machine.claim(job, 1, "n")
    machine.call("report", job, 1, 5, '{"stage":""}', 0, "", "line")
    machine.call("keep_state", job, 1, "all", "key/state.pt", "AAAA")
    machine.dispatcher("d", holds=1)
    other = machine.submit()
    machine.schedule(other)
    machine.call("submit", "job-x", "me", "{}", 0, 1, 1, 3, "key", "digest", 60_000)
    expected = {
        keys.QUEUE, keys.ACTIVE, keys.JOBS, keys.NODES, keys.SCHEDULER_LOCK, keys.SCHEDULER_FENCE, keys.node("n"),
        keys.job(job), keys.events(job), keys.leases(job), keys.progress(job), keys.log(job), keys.state_copy(job),
        keys.job("job-x"),
        keys.events("job-x"), keys.owner_jobs("me"), keys.idempotency("me", "key"), keys.state_jobs("running"),
        keys.owner_state_jobs("me", "running"), keys.state_jobs("queued"), keys.owner_state_jobs("me", "queued"),
        keys.LANES, keys.lane("me"), keys.SERVED, keys.SERVED_ALL, keys.TURNS, keys.node("d"), keys.node_jobs("d"),
        keys.job(other), keys.events(other), keys.state_jobs("scheduled"), keys.owner_state_jobs("me", "scheduled"),
    }  # fmt: skip
    assert set(machine.redis.scan_iter("*")) == expected


class Recorder:
    """In the waker's place."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, str, int]] = []
        self.first = asyncio.Event()

    async def wake(self, node_id: str, job_id: str, attempt: int, node_rank: int) -> None:
        self.woken.append((node_id, job_id, attempt))
        self.first.set()


def test_a_second_scheduler_waits_and_takes_over_when_the_first_is_gone(machine: Machine) -> None:
    machine.redis.delete(keys.SCHEDULER_LOCK)
    machine.node("a")

    async def use() -> None:
        async with (
            Redis.from_url(machine.server.url, decode_responses=True) as one,
            Redis.from_url(machine.server.url, decode_responses=True) as two,
        ):
            wakes = Recorder(), Recorder()
            first, second = Scheduler(one, wakes[0]), Scheduler(two, wakes[1])
            assert await first.tick()
            assert not await second.tick()
            job = machine.submit()
            assert not await second.tick()
            assert await first.tick()
            assert wakes[0].woken == [("a", job, 1)]
            assert not wakes[1].woken
            # The first one hangs for longer than its lock lives; the second takes over.
            machine.redis.delete(keys.SCHEDULER_LOCK)
            assert await second.tick()
            assert not await first.tick(), "and the first one, back again, waits in turn"
            await second.resign()
            assert await first.tick(), "one that goes in order makes room at once"

    asyncio.run(use())


def test_a_running_scheduler_that_is_killed_is_replaced_within_its_locks_life(machine: Machine) -> None:
    machine.redis.delete(keys.SCHEDULER_LOCK)
    machine.redis.set(keys.SCHEDULER_LOCK, "a process that is gone", px=1500)
    machine.node("a")

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            wakes = Recorder()
            task = asyncio.create_task(Scheduler(redis, wakes).run())
            job = machine.submit()
            await asyncio.wait_for(wakes.first.wait(), DEADLINE_S)
            assert wakes.woken[0][:2] == ("a", job)
            task.cancel()

    asyncio.run(use())
    assert LOCK_MS <= 15_000, "as long as a lease: nothing expires unseen"


def test_waiting_jobs_behind_a_large_one_do_not_overtake_it(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    machine.redis.delete(keys.SCHEDULER_LOCK)
    busy, large, small = machine.submit(), machine.submit(nodes=2), machine.submit()

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            wakes = Recorder()
            await Scheduler(redis, wakes).tick()
            assert wakes.woken == [("a", busy, 1)], "one node is free, but the small job waits behind the large one"

    asyncio.run(use())
    assert machine.field(small, "state") == machine.field(large, "state") == "queued"


def test_the_store_reads_back_what_the_scripts_wrote(machine: Machine, tmp_path: Path) -> None:
    machine.node("a")
    spec = json.dumps({"ckpt_dir": "/c", "val_set": "/v"})
    machine.call("submit", "j", "me", spec, 0, 1, 1, 3, "", "", 1000)
    machine.schedule("j")
    machine.claim("j", 1, "a")

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            store = JobStore(redis, redis)
            record = await store.get("j", None)
            assert record is not None
            assert (record.state, record.attempt, record.nodes) == (JobState.RUNNING, 1, ("a",))
            assert await store.get("j", "somebody else") is None

    asyncio.run(use())
    until(lambda: machine.field("j", "started_at"), what="the start to be noted")


def test_a_listing_goes_on_though_the_jobs_of_the_page_before_are_gone(machine: Machine) -> None:
    spec = json.dumps({"ckpt_dir": "/c", "val_set": "/v"})
    for number in range(25):
        machine.call("submit", f"j{number:02}", "me", spec, 0, 1, 1, 3, "", "", 1000)
        machine.call("cancel", f"j{number:02}")

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            store = JobStore(redis, redis)
            seen, cursor = [], None
            while True:
                page = await store.list("me", cursor=cursor, limit=10)
                for record in page.jobs:
                    seen.append(record.id)
                    await store.delete(record.id)
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert sorted(seen) == [f"j{number:02}" for number in range(25)]
            assert not (await store.list("me")).jobs

    asyncio.run(use())


def test_deleting_an_old_job_leaves_the_key_of_a_newer_one(machine: Machine) -> None:
    spec = json.dumps({"ckpt_dir": "/c", "val_set": "/v"})
    assert machine.call("submit", "old", "me", spec, 0, 1, 1, 3, "k", "d", 1) == ["created", "old"]
    until(lambda: not machine.redis.exists(keys.idempotency("me", "k")), what="the key of the old job to expire")
    assert machine.call("submit", "new", "me", spec, 0, 1, 1, 3, "k", "d", 60_000) == ["created", "new"]

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            store = JobStore(redis, redis)
            await store.cancel("old")
            await store.delete("old")
            replayed = await store.replay("me", "k", "d")
            assert replayed is not None
            assert replayed.id == "new"

    asyncio.run(use())


def test_a_node_that_left_is_dead_and_was_seen_when_it_was(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.call("register", name, *("id", name, "host", "h", "ranks", "1", "gpus", "[]", "version", "1"),
                     *("torch_version", "2", "catalog", json.dumps({"methods": [], "tasks": []})))  # fmt: skip
    machine.call("leave", "a")

    async def use() -> None:
        async with Redis.from_url(machine.server.url, decode_responses=True) as redis:
            left, stays = await JobStore(redis, redis).nodes()
            assert (left.alive, stays.alive) == (False, True)
            assert left.heartbeat_at.year > 2000

    asyncio.run(use())


def test_a_broker_that_falls_silent_does_not_hold_the_scheduler() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        waker = Waker(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        began = time.monotonic()
        with pytest.raises((OperationalError, OSError)):
            asyncio.run(waker.wake("node", "job", 1, 0))
        assert time.monotonic() - began < SOON_S
        waker.close()
