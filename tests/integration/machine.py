"""The scripts of a job's life on a real Redis, for tests that speak for the nodes; and whether the indexes agree."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

from ladle_contracts import TERMINAL_STATES, JobState, keys
from ladle_contracts.transitions import SCRIPTS
from tests.servers import RedisServer

NODE_LIFE_MS = 60_000
CLAIM_MS = 30_000
LEASE_MS = 60_000
EXPIRED = -1
"""Milliseconds that a lease or a claim lives: it has run out before anybody looks."""

SPEC = {"ckpt_dir": "/c", "val_set": "/v"}


class Machine:
    """Every transition as a call, with the arguments that a test does not care about filled in."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.redis = server.client()
        self.fence = self.call("elect", "the-test", 600_000)
        self.jobs = 0

    def call(self, script: str, *arguments: Any) -> Any:
        return self.redis.register_script(SCRIPTS[script])(args=list(arguments))

    def node(self, name: str, ranks: int = 1) -> None:
        self.call("register", name, "id", name, "ranks", ranks)
        self.call("heartbeat", name)

    def dispatcher(self, name: str, holds: int) -> None:
        self.call("register", name, "id", name, "ranks", 0, "dispatches", 1, "holds", holds)

    def submit(
        self,
        *,
        owner: str = "me",
        labels: dict[str, str] | None = None,
        nodes: int = 1,
        ranks: int = 1,
        priority: int = 0,
        max_failures: int = 3,
        min_nodes: int | None = None,
        timeout_s: float | None = None,
    ) -> str:
        self.jobs += 1
        job = f"job-{self.jobs}"
        spec = json.dumps({**SPEC, "labels": labels or {}})
        self.call("submit", job, owner, spec, priority, nodes, ranks, max_failures, "", "", 1000,
                  *("", "", min_nodes or nodes, timeout_s or ""))  # fmt: skip
        return job

    def supply(self, ranks: int = 1) -> tuple[int, int]:
        """How many nodes of so many ranks are free, and how many are alive."""
        job = self.submit(ranks=ranks)
        answer = json.loads(self.call("waiting", NODE_LIFE_MS, job))["jobs"][0]
        self.call("cancel", job)
        return answer["free"], answer["alive"]

    def next(self) -> list[Any]:
        """The id of the job that may start now, and how `schedule` is called for it; or nothing."""
        found: list[Any] = self.call("next", self.fence, NODE_LIFE_MS, CLAIM_MS)
        return found

    def next_job(self) -> str:
        """Its id, or ''."""
        return (self.next() or [""])[0]

    def place(self) -> dict[str, list[str]]:
        """What the scheduler does until no job may start: each that starts, with its nodes."""
        placed = {}
        while found := self.next():
            job, *how = found
            answer, _, *nodes = self.call("schedule", self.fence, job, CLAIM_MS, NODE_LIFE_MS, *how)
            assert answer == "scheduled", answer
            placed[job] = nodes
        return placed

    def schedule(self, job: str, fence: str | None = None) -> list[str]:
        answer: list[str] = self.call("schedule", fence or self.fence, job, CLAIM_MS, NODE_LIFE_MS)
        return answer

    def claim(self, job: str, attempt: int, node: str, lease_ms: int = LEASE_MS) -> str:
        answer: str = self.call("claim", job, attempt, node, lease_ms)[0]
        return answer

    def finalize(self, job: str, attempt: int, node: str = "a") -> str:
        answer: str = self.call("finalize", job, attempt, node, LEASE_MS)
        return answer

    def end(self, job: str, attempt: int, outcome: str, reason: str = "", node: str = "a") -> str:
        """`node` is the one that failed, if one did."""
        answer: str = self.call("end", job, attempt, outcome, reason, "why", "", "[]", 0, node)
        return answer

    def reap(self, job: str, fence: str | None = None) -> str:
        answer: str = self.call("reap", fence or self.fence, job, 0)
        return answer

    def field(self, job: str, name: str) -> str:
        value: str = self.redis.hget(keys.job(job), name)
        return value

    def held(self, node: str) -> set[str]:
        """The jobs of a dispatcher."""
        jobs: set[str] = self.redis.smembers(keys.node_jobs(node))
        return jobs

    def holder(self, node: str) -> str:
        value: str = self.redis.hget(keys.node(node), "job") or ""
        return value


HELD = frozenset({JobState.SCHEDULED, JobState.RUNNING, JobState.FINALIZING, JobState.CANCELLING})
INDEXES = ("jobs", "owner:*", "state:*", "queue*", "lane:*", "finished", "active")
POINT_MS = 600_000
"""What a point of priority is worth in the queue."""


def disagreements(redis: Any) -> list[str]:
    """Every set of jobs that is not what the jobs' own hashes say."""
    expected: dict[str, dict[str, float]] = defaultdict(dict)
    for key in redis.scan_iter(f"{keys.PREFIX}job:*"):
        job_id, *part = key.removeprefix(f"{keys.PREFIX}job:").split(":")
        if not part:
            _expect(expected, job_id, redis.hgetall(key))
    actual = {key: _members(redis, key) for index in INDEXES for key in redis.scan_iter(keys.PREFIX + index)}
    wrong = [
        f"{key}: {actual.get(key, {})} must be {expected[key]}"
        for key in sorted(actual.keys() | expected.keys())
        if actual.get(key, {}) != expected[key]
    ]
    if strays := set(redis.zrange(keys.TRACES, 0, -1)) - set(redis.zrange(keys.FINISHED, 0, -1)):
        wrong.append(f"{keys.TRACES} has {strays}")
    return wrong


def _expect(expected: dict[str, dict[str, float]], job_id: str, job: dict[str, str]) -> None:
    created, owner, state = float(job["created_at"]), job["owner"], job["state"]
    for key in (
        *(keys.JOBS, keys.owner_jobs(owner)),
        *(keys.state_jobs(state), keys.owner_state_jobs(owner, state)),
    ):
        expected[key][job_id] = created
    if state == JobState.QUEUED:
        place = created - int(job["priority"]) * POINT_MS
        expected[keys.QUEUE][job_id] = expected[_lane(job)][job_id] = place
    if state in HELD:
        expected[keys.ACTIVE][job_id] = 0.0
    if state in TERMINAL_STATES:
        expected[keys.FINISHED][job_id] = float(job["finished_at"])


def _lane(job: dict[str, str]) -> str:
    limit = 1 + math.ceil(math.log2(float(job["timeout_s"]))) if job["timeout_s"] else 0
    numbers = {name: int(job[f"{name}_needed"]) for name in ("nodes", "ranks")}
    return keys.lane(job["owner"], **numbers, min_nodes=int(job["min_nodes"]), limit=limit)


def _members(redis: Any, key: str) -> dict[str, float]:
    if redis.type(key) == "set":
        return dict.fromkeys(redis.smembers(key), 0.0)
    return dict(redis.zrange(key, 0, -1, withscores=True))
