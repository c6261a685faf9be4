"""Whose failure it is, on a real Redis: the job's counts, a node's does not, and a node that fails again and again gets
no more jobs. Tests speak for the nodes."""

from __future__ import annotations

import json
import time

import pytest

from ladle_contracts import keys
from ladle_service.waiting import Queue
from tests.integration.machine import CLAIM_MS, EXPIRED, LEASE_MS, NODE_LIFE_MS, Machine

pytestmark = pytest.mark.slow


def cordoned(machine: Machine, node: str) -> str:
    return machine.redis.hget(keys.node(node), "cordoned") or ""


def in_a_row(machine: Machine, node: str) -> int:
    return int(machine.redis.hget(keys.node(node), "failures_in_row") or 0)


def warnings(machine: Machine, job: str) -> list[str]:
    bodies = [json.loads(fields["body"]) for _, fields in machine.redis.xrange(keys.events(job))]
    return [body["message"] for body in bodies if body["kind"] == "warning"]


def start(machine: Machine, job: str, lease_ms: int = LEASE_MS) -> list[str]:
    """Schedules the job's next attempt, and all its nodes claim it. Its nodes."""
    machine.redis.hset(keys.job(job), "not_before", 0)
    answer, attempt, *nodes = machine.schedule(job)
    assert answer == "scheduled", answer
    for node in nodes:
        assert machine.claim(job, int(attempt), node, lease_ms=lease_ms) == "ok"
    return nodes


def lose(machine: Machine, job: str, name: str | None = None) -> str:
    """An attempt whose node, or the one of this name, does not renew its lease."""
    nodes = start(machine, job)
    machine.redis.hset(keys.leases(job), name or nodes[0], 1)
    return machine.reap(job)


def fail(machine: Machine, job: str, node: str, reason: str = "node-unfit", backoff_ms: int = 0) -> str:
    """An attempt that ends because of a node."""
    start(machine, job)
    attempt = machine.field(job, "attempt")
    answer: str = machine.call(
        "end", job, attempt, "node-failed", reason, f"`{node}` is broken.", "", "[]", backoff_ms, node
    )
    return answer


def succeed(machine: Machine, job: str) -> list[str]:
    nodes = start(machine, job)
    assert machine.end(job, int(machine.field(job, "attempt")), "succeeded") == "succeeded"
    return nodes


def test_a_lost_node_is_not_the_jobs_failure_and_another_one_is_tried_first(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit(max_failures=1)
    assert lose(machine, job) == "queued"
    assert (machine.field(job, "failures"), machine.field(job, "node_failures")) == ("0", "1")
    assert (machine.field(job, "reason"), machine.field(job, "message")) == (
        "node-lost",
        "Node `a` no longer responds.",
    )
    assert succeed(machine, job) == ["b"]
    assert (in_a_row(machine, "a"), in_a_row(machine, "b")) == (1, 0)


def test_a_node_that_restarted_under_its_job_is_said_to_have_restarted(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    start(machine, job)
    machine.node("a")
    assert machine.reap(job) == "queued"
    assert machine.field(job, "message") == "Node `a` has restarted."
    assert in_a_row(machine, "a") == 1, "a restart does not make it forget"


def test_the_waits_after_failures_of_nodes_double_up_to_a_minute(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    waits = []
    for _ in range(9):
        now = int(time.time() * 1000)
        assert fail(machine, job, "a", backoff_ms=1000) == "queued"
        waits.append(round((int(machine.field(job, "not_before")) - now) / 1000))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert machine.schedule(job) == ["skip"], "a wait of a minute is kept"


def test_a_job_under_which_nodes_fail_for_ever_ends(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    answers = [fail(machine, job, "a") for _ in range(10)]
    assert answers == ["queued"] * 9 + ["failed"]
    assert machine.field(job, "message") == (
        "`a` is broken. Nodes have failed under this job 10 times in a row, so it is not tried again."
    )
    assert machine.field(job, "failures") == "0"


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c", "d", "e")])
def test_a_job_that_ends_each_node_it_runs_on_ends_itself_and_cordons_nobody(
    names: tuple[str, ...], machine: Machine
) -> None:
    for name in names:
        machine.node(name)
    job = machine.submit()
    assert [lose(machine, job) for _ in range(3)] == ["queued", "queued", "failed"]
    assert "lost in 3 attempts in a row, so the job may be what ends the node" in machine.field(job, "message")
    assert [in_a_row(machine, name) for name in names] == [0] * len(names)
    assert not any(cordoned(machine, name) for name in names)


def test_nodes_that_are_lost_under_a_job_that_runs_long_are_not_its_fault(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    for _ in range(12):
        start(machine, job)
        machine.redis.hset(keys.job(job), "running_since", int(time.time() * 1000) - 11 * 60_000)
        machine.redis.hset(keys.leases(job), "a", 1)
        assert machine.reap(job) == "queued"
    machine.redis.hset(keys.job(job), "node_failures", 49)
    assert lose(machine, job) == "failed", "and not for ever"
    assert machine.field(job, "message").endswith("failed under this job 50 times, so it is not tried again.")


def test_a_node_is_cordoned_after_three_failures_in_a_row_and_says_why(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit(nodes=2)
    for _ in range(2):
        assert fail(machine, job, "b") == "queued"
    assert not cordoned(machine, "b")
    assert fail(machine, job, "b") == "queued"
    assert cordoned(machine, "b") == "3 failures in a row"
    assert machine.redis.hget(keys.node("b"), "failure_message") == "`b` is broken."
    assert warnings(machine, job) == [
        "Node `b` takes no more jobs, because of 3 failures in a row, the last one: `b` is broken. "
        "`ladle node uncordon b` lets it."
    ]
    assert machine.schedule(job) == ["impossible"]
    assert succeed(machine, machine.submit()) == ["a"]
    machine.node("b")
    assert machine.schedule(job) == ["impossible"], "a restart does not uncordon it"
    assert machine.call("cordon", "b", "uncordon", "") == "changed"
    assert start(machine, job)


def test_a_success_in_between_starts_the_count_anew(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    for _ in range(4):
        job = machine.submit(nodes=2)
        for _ in range(2):
            fail(machine, job, "b")
        succeed(machine, job)
    assert (in_a_row(machine, "b"), cordoned(machine, "b")) == (0, "")


def test_the_last_node_that_takes_jobs_is_not_cordoned_and_that_is_said(machine: Machine) -> None:
    machine.node("a")
    job = machine.submit()
    for _ in range(4):
        assert fail(machine, job, "a") == "queued"
    assert cordoned(machine, "a") == ""
    assert warnings(machine, job)[0] == (
        "Node `a` has had 3 failures in a row. It still takes jobs, because there is no other."
    )
    machine.node("b")
    fail(machine, job, "a")
    assert cordoned(machine, "a"), "now there is another"


def test_a_disk_that_several_nodes_share_cordons_none_of_them(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit(max_failures=1)
    for _ in range(9):
        node = start(machine, job)[0]
        attempt = machine.field(job, "attempt")
        machine.call("end", job, attempt, "node-failed", "results-unwritable", "No disk.", "", "[]", 0, node)
    assert (cordoned(machine, "a"), cordoned(machine, "b")) == ("", "")
    assert succeed(machine, job)


def test_a_disk_that_only_one_node_misses_cordons_that_one(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit(nodes=2)
    for _ in range(3):
        fail(machine, job, "b", "results-unwritable")
    assert (cordoned(machine, "a"), bool(cordoned(machine, "b"))) == ("", True)


def test_nodes_that_never_answer_are_cordoned_and_the_job_is_not_blamed(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit(nodes=2)
    for attempt in (1, 2, 3):
        machine.redis.hset(keys.job(job), "not_before", 0)
        assert machine.call("schedule", machine.fence, job, EXPIRED, NODE_LIFE_MS)[0] == "scheduled"
        assert machine.claim(job, attempt, "a") == "ok"
        assert machine.reap(job) == "queued"
    assert machine.field(job, "message") == "Node `b` did not answer in time."
    assert (cordoned(machine, "a"), bool(cordoned(machine, "b"))) == ("", True)


def test_an_operator_takes_a_node_out_and_puts_it_back(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    assert machine.call("cordon", "x", "drain", "why") == "unknown"
    assert machine.call("cordon", "a", "drain", "drained by ann") == "changed"
    assert machine.call("cordon", "a", "drain", "drained by bob") == "same"
    assert cordoned(machine, "a") == "drained by ann"
    machine.node("a")
    assert start(machine, machine.submit()) == ["b"]
    assert machine.schedule(machine.submit()) == ["busy"]
    assert machine.call("cordon", "a", "uncordon", "") == "changed"
    assert machine.call("cordon", "a", "uncordon", "") == "same"
    assert start(machine, machine.submit()) == ["a"]


def test_a_drained_node_ends_its_job_and_one_that_is_drained_at_once_hands_it_back(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit()
    assert start(machine, job) == ["a"]
    machine.call("cordon", "a", "drain", "why")
    assert machine.call("renew", job, 1, "a", LEASE_MS) == "ok"
    assert machine.call("cordon", "a", "drain-now", "why") == "changed"
    assert machine.call("renew", job, 1, "a", LEASE_MS) == "release"
    assert machine.call("meet", job, 1, "a", LEASE_MS, "{}") == ["release"]
    assert machine.end(job, 1, "released", "node-lost") == "queued"
    assert (machine.field(job, "failures"), in_a_row(machine, "a")) == ("0", 0)
    assert start(machine, job) == ["b"]


def test_a_node_that_its_failures_cordoned_keeps_saying_so_when_it_is_drained(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    job = machine.submit(nodes=2)
    for _ in range(3):
        fail(machine, job, "b")
    assert machine.call("cordon", "b", "drain", "drained by ann") == "changed"
    assert cordoned(machine, "b") == "drained by ann, after 3 failures in a row"
    assert machine.call("cordon", "b", "uncordon", "") == "changed"
    assert (cordoned(machine, "b"), in_a_row(machine, "b")) == ("", 0)


def test_a_cordoned_node_that_is_gone_for_long_is_not_forgotten(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
        machine.redis.hset(keys.node(name), "heartbeat_at", 1)
    machine.call("cordon", "a", "cordon", "why")
    assert machine.call("sweep", machine.fence, 0, 0, CLAIM_MS, 0, 100) == 1
    assert machine.redis.smembers(keys.NODES) == {"a"}


def test_the_failure_of_what_a_dispatcher_runs_does_not_cordon_it(machine: Machine) -> None:
    machine.node("b")
    machine.call("register", "d", "id", "d", "ranks", 1, "dispatches", 1, "holds", 4)
    for _ in range(4):
        job = machine.submit(nodes=2)
        fail(machine, job, "d")
        machine.call("cancel", job)
    assert cordoned(machine, "d") == ""


def test_a_job_that_waits_says_that_nodes_are_taken_out(machine: Machine) -> None:
    for name in ("a", "b"):
        machine.node(name)
    machine.call("cordon", "b", "cordon", "why")
    job = machine.submit(nodes=2)
    answer = Queue.read(machine.call("waiting", NODE_LIFE_MS, job))
    (turn,) = answer.jobs
    assert turn is not None
    assert turn.in_words == "needs 2 nodes, 1 free of 1; 1 more takes no jobs"
