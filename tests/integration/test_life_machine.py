"""Random lives of jobs over the real scripts on a real Redis: after each step, all parts of Redis must agree.

Hypothesis chooses what the people, the scheduler and two nodes do, in any order, also twice, too late, or by somebody
who has been replaced. Times are extreme, not waited for: a lease has run out at once or lasts.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ladle_contracts import TERMINAL_STATES, JobState, keys
from tests.integration.machine import CLAIM_MS, EXPIRED, HELD, LEASE_MS, NODE_LIFE_MS, Machine, disagreements
from tests.servers import RedisServer

pytestmark = pytest.mark.slow

NODES = ("a", "b")
OUTCOMES = ("succeeded", "failed", "crashed", "node-failed", "released")
DAY_MS = 24 * 3600 * 1000

some_job = st.integers(min_value=0, max_value=2**16)
node = st.sampled_from(NODES)
lease = st.sampled_from([EXPIRED, LEASE_MS])
AFTER = {
    "": {"queued"},
    "queued": {"scheduled", "cancelled"},
    "scheduled": {"running", "queued", "cancelling", "failed", "cancelled", "succeeded"},
    "running": {"finalizing", "queued", "cancelling", "succeeded", "failed", "cancelled"},
    "finalizing": {"succeeded", "failed", "queued", "cancelled"},
    "cancelling": {"cancelled"},
}
"""State -> those that may follow it."""


class Life(RuleBasedStateMachine):
    """What anybody can do to jobs."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        with self.server.client() as client:
            client.flushall()
        self.machine = Machine(self.server)
        self.redis = self.machine.redis
        self.fences = [self.machine.fence]
        self.ended: dict[str, dict[str, str]] = {}
        """Job -> its hash when it ended."""
        for name in NODES:
            self.machine.node(name)

    def teardown(self) -> None:
        self.redis.close()

    def jobs(self) -> list[str]:
        found: list[str] = self.redis.zrange(keys.JOBS, 0, -1)
        return found

    def job(self, number: int) -> str:
        """One that is there, or a name that no job has."""
        return (self.jobs() or ["nobody"])[number % max(1, self.redis.zcard(keys.JOBS))]

    def attempt(self, job: str) -> int:
        return int(self.machine.field(job, "attempt") or 0)

    @rule(
        owner=st.sampled_from(["ann", "bob"]),
        labels=st.dictionaries(st.sampled_from(["run", "x:y", "state"]), st.sampled_from(["1", "", "é"]), max_size=2),
        nodes=st.integers(1, 3),
        ranks=st.integers(1, 2),
        priority=st.integers(-100, 100),
        max_failures=st.integers(1, 2),
        min_nodes=st.none() | st.just(1),
        timeout_s=st.none() | st.sampled_from([1, 3.5, 64, 1e6]),
        twice=st.booleans(),
    )
    def submit(self, twice: bool, **about: Any) -> None:
        job = self.machine.submit(**about)
        if twice:
            before = self.dump()
            self.machine.jobs -= 1
            assert self.machine.submit(**about) == job
            assert self.dump() == before

    @rule()
    def place(self) -> None:
        """What the scheduler does: the next job, if there is one, can really be scheduled."""
        for job, nodes in self.machine.place().items():
            assert int(self.machine.field(job, "min_nodes")) <= len(nodes)
            assert len(nodes) <= int(self.machine.field(job, "nodes_needed"))

    @rule(number=some_job, claim_ms=st.sampled_from([EXPIRED, CLAIM_MS]))
    def schedule(self, number: int, claim_ms: int) -> None:
        self.machine.call("schedule", self.machine.fence, self.job(number), claim_ms, NODE_LIFE_MS)

    @rule(number=some_job, node=node, lease_ms=lease, twice=st.booleans())
    def claim(self, number: int, node: str, lease_ms: int, twice: bool) -> None:
        job = self.job(number)
        answer = self.machine.claim(job, self.attempt(job), node, lease_ms)
        if twice and answer == "ok":
            before = self.dump()
            assert self.machine.claim(job, self.attempt(job), node, lease_ms) in ("taken", "stale")
            assert self.dump() == before

    @rule(number=some_job, node=node, lease_ms=lease)
    def renew(self, number: int, node: str, lease_ms: int) -> None:
        job = self.job(number)
        self.machine.call("renew", job, self.attempt(job), node, lease_ms)

    @rule(number=some_job, offset=st.integers(1, 3))
    def report(self, number: int, offset: int) -> None:
        """The same offset again is the same report."""
        job = self.job(number)
        body = json.dumps({"kind": "warning", "message": f"{self.attempt(job)} {offset}"})
        if self.machine.call("report", job, self.attempt(job), offset, '{"stage":"x"}', 1, "", body, "line") == "ok":
            bodies = [fields["body"] for _, fields in self.redis.xrange(keys.events(job))]
            assert bodies.count(body) <= 1

    @rule(number=some_job, node=node)
    def finalize(self, number: int, node: str) -> None:
        job = self.job(number)
        self.machine.finalize(job, self.attempt(job), node)

    @rule(number=some_job, outcome=st.sampled_from(OUTCOMES))
    def end(self, number: int, outcome: str) -> None:
        job = self.job(number)
        attempt = self.attempt(job)
        if self.machine.end(job, attempt, outcome, "crashed") != "lost":
            before = self.dump()
            assert self.machine.end(job, attempt, outcome, "crashed") == "lost"
            assert self.dump() == before, "an end that is said twice changes nothing"

    @rule(number=some_job)
    def cancel(self, number: int) -> None:
        self.machine.call("cancel", self.job(number))

    @rule(number=some_job)
    def reap(self, number: int) -> None:
        self.machine.reap(self.job(number))

    @rule(settle_ms=st.sampled_from([1, LEASE_MS]))
    def settle(self, settle_ms: int) -> None:
        assert self.machine.call("settle", self.machine.fence, settle_ms) == "ok"

    @rule(node=node)
    def restart(self, node: str) -> None:
        self.machine.node(node)

    @rule(node=node)
    def leave(self, node: str) -> None:
        self.machine.call("leave", node)

    @rule(node=node, verb=st.sampled_from(["cordon", "drain", "drain-now", "uncordon", "uncordon"]))
    def cordon(self, node: str, verb: str) -> None:
        """Said twice, it changes nothing more."""
        if self.machine.call("cordon", node, verb, "why") != "unknown":
            before = self.dump()
            assert self.machine.call("cordon", node, verb, "why") == "same"
            assert self.dump() == before

    @rule(node=node)
    def beat(self, node: str) -> None:
        if self.machine.call("heartbeat", node) == "unknown":
            self.machine.node(node)

    @rule(number=some_job)
    def delete(self, number: int) -> None:
        job = self.job(number)
        answer = self.machine.call("delete", job)
        assert (answer == "ok") == (job in self.ended or job == "nobody")
        if answer == "ok":
            self.ended.pop(job, None)
            assert not list(self.redis.scan_iter(f"{keys.job(job)}*"))

    @precondition(lambda self: self.ended)
    @rule(
        jobs_ms=st.sampled_from([0, DAY_MS, -DAY_MS]), traces_ms=st.sampled_from([0, -DAY_MS]), most=st.integers(0, 2)
    )
    def sweep(self, jobs_ms: int, traces_ms: int, most: int) -> None:
        """A negative age is older than anything."""
        self.machine.call("sweep", self.machine.fence, jobs_ms, traces_ms, 0, most, 100)
        gone = self.ended.keys() - set(self.jobs())
        assert most or jobs_ms < 0 or not gone
        assert not most or len(self.ended) - len(gone) <= most
        for job in gone:
            del self.ended[job]

    @rule()
    def another_scheduler(self) -> None:
        self.redis.delete(keys.SCHEDULER_LOCK)
        self.fences.append(self.machine.call("elect", f"scheduler {len(self.fences)}", 600_000))
        self.machine.fence = self.fences[-1]

    @precondition(lambda self: len(self.fences) > 1)
    @rule(number=some_job)
    def a_deposed_scheduler(self, number: int) -> None:
        before = self.dump()
        job, fence = self.job(number), self.fences[-2]
        assert self.machine.schedule(job, fence) == ["deposed"]
        assert self.machine.reap(job, fence) == "deposed"
        assert self.machine.call("settle", fence, 1) == "deposed"
        assert self.machine.call("index", fence, "0", 100) == "deposed"
        assert self.machine.call("sweep", fence, -DAY_MS, -DAY_MS, -DAY_MS, 1, 100) == "deposed"
        assert self.dump() == before

    @rule(number=some_job, node=node, outcome=st.sampled_from(OUTCOMES))
    def an_attempt_that_was_replaced(self, number: int, node: str, outcome: str) -> None:
        job = self.job(number)
        old = self.attempt(job) - 1
        if old < 1:
            return
        before = self.dump()
        assert self.machine.claim(job, old, node) == "stale"
        assert self.machine.call("renew", job, old, node, LEASE_MS) == "lost"
        assert self.machine.call("report", job, old, 99, "{}", 0, "", "line") == "lost"
        assert self.machine.finalize(job, old, node) == "lost"
        assert self.machine.end(job, old, outcome) == "lost"
        assert self.dump() == before

    @rule()
    def compare_indexes(self) -> None:
        """Where nothing is wrong, nothing is written."""
        self.redis.set(keys.INDEXED, 1)
        before = self.dump()
        assert self.machine.call("index", self.machine.fence, "0", 10_000) == "0"
        assert {key for key in before if before[key] != self.dump().get(key)} == set()

    @invariant()
    def every_index_agrees_with_the_jobs(self) -> None:
        assert disagreements(self.redis) == []

    @invariant()
    def a_terminal_state_never_changes(self) -> None:
        for job in self.jobs():
            now = self.redis.hgetall(keys.job(job))
            if now["state"] in TERMINAL_STATES:
                assert self.ended.setdefault(job, now) == now

    @invariant()
    def the_events_tell_every_change_of_state_once(self) -> None:
        for job in self.jobs():
            bodies = [json.loads(fields["body"]) for _, fields in self.redis.xrange(keys.events(job))]
            states = [body["state"] for body in bodies if body["kind"] == "state"]
            assert states[-1] == self.machine.field(job, "state")
            if states[0] == "queued":  # else it was swept
                for before, after in zip(["", *states], states, strict=False):
                    assert after in AFTER[before], states

    @invariant()
    def no_node_has_two_jobs_and_only_jobs_at_work_have_leases(self) -> None:
        taken: list[str] = []
        for job in self.jobs():
            fields = self.redis.hgetall(keys.job(job))
            if fields["state"] in HELD:
                nodes = json.loads(fields["nodes"])
                taken += nodes
                assert set(self.redis.hkeys(keys.leases(job))) <= set(nodes)
            else:
                assert not self.redis.exists(keys.leases(job))
            assert int(fields["failures"]) <= int(fields["max_failures"])
        assert len(taken) == len(set(taken))

    def dump(self) -> dict[str, Any]:
        return {key: self.redis.dump(key) for key in self.redis.scan_iter("*") if key != keys.SCHEDULER_LOCK}


@pytest.fixture
def life(shared_server: RedisServer) -> type[Life]:
    return type("LifeOnServer", (Life,), {"server": shared_server})


def test_whatever_happens_to_jobs_redis_agrees_with_itself(life: type[Life]) -> None:
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_a_job_ends_if_everybody_goes_on_doing_their_part(machine: Machine) -> None:
    """However often nodes die, no job is forgotten in a queue or on a node."""
    chance = random.Random(7)
    for name in NODES:
        machine.node(name)
    jobs = [machine.submit(ranks=1, nodes=chance.choice([1, 2]), priority=chance.randint(-1, 1)) for _ in range(12)]
    for _ in range(1000):
        if all(machine.field(job, "state") in TERMINAL_STATES for job in jobs):
            break
        if job := machine.next_job():
            _, attempt, *nodes = machine.schedule(job)
            expiry = chance.choice([EXPIRED, LEASE_MS])
            for name in nodes:
                machine.claim(job, int(attempt), name, expiry)
            if expiry == LEASE_MS:
                machine.end(job, int(attempt), chance.choice(OUTCOMES))
        for active in machine.redis.smembers(keys.ACTIVE):
            machine.reap(active)
        for name in NODES:
            # The operator's part.
            machine.call("cordon", name, "uncordon", "")
    states = [machine.field(job, "state") for job in jobs]
    assert set(states) <= {JobState.SUCCEEDED, JobState.FAILED}
    assert JobState.SUCCEEDED in states
    assert not machine.redis.exists(keys.ACTIVE, keys.QUEUE)
