"""Many nodes without an engine take many jobs: real claims, real schedulers and a real Redis. Only the work is a pause.

Messages get lost or come twice, jobs crash, nodes restart in the middle of a job, and a scheduler dies.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis

from ladle_contracts import JobSpec, Progress, Reason, Resources, StepDone, keys
from ladle_contracts.transitions import SCRIPTS
from ladle_service.ending import end
from ladle_service.retention import Retention
from ladle_service.scheduler import Scheduler
from ladle_service.store import JobStore
from ladle_worker.claim import Claim, Ended, NotOurs
from ladle_worker.connection import connect
from ladle_worker.settings import Settings

POINT_MS = 600_000
MARGIN_MS = 2_000
"""A job that was submitted so shortly before another one started may have come too late to be looked at."""
POLL_S = 0.02
STOPPED = ("cancel", "release", "lost")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much there is to do."""

    jobs: int
    nodes: int
    backlog: int
    """How many jobs are in the queue, until there are no more to submit."""
    work_s: tuple[float, float]
    kept: int
    """How many jobs that have ended stay in Redis."""
    lost: float = 0.01
    """The share of messages that get lost."""
    twice: float = 0.1
    crashes: float = 0.02
    restarts: float = 0.01
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Submitted:
    owner: str
    need: tuple[int, int | None, float | None]
    created_ms: float
    place_ms: float


@dataclass
class Log:
    """What happened. All parts of the simulation write into it."""

    submitted: dict[str, Submitted] = field(default_factory=dict)
    placed: dict[str, float] = field(default_factory=dict)
    """Job -> when it was placed first, in milliseconds."""
    gangs: dict[str, int] = field(default_factory=dict)
    succeeded: Counter[str] = field(default_factory=Counter)
    at_once: Counter[str] = field(default_factory=Counter)
    """Job -> how many attempts run at the moment."""
    overlaps: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ticks: list[tuple[int, float]] = field(default_factory=list)
    """How many jobs had ended, and how long the elected scheduler's round took, in seconds."""
    memory: list[tuple[int, int]] = field(default_factory=list)
    """How many jobs had ended, and the bytes that Redis used."""

    def overtaken(self) -> list[tuple[str, str]]:
        """Pairs of one owner and one need: a job, and one with an earlier place that was there and started later."""
        lanes = defaultdict(list)
        for job, about in self.submitted.items():
            lanes[about.owner, about.need].append((self.placed[job], job, about))
        return [
            (first, second)
            for lane in lanes.values()
            for position, (placed, first, early) in enumerate(sorted(lane, key=lambda entry: entry[:2]))
            for _, second, late in sorted(lane, key=lambda entry: entry[:2])[position + 1 :]
            if late.place_ms < early.place_ms and late.created_ms + MARGIN_MS < placed
        ]

    def waits_s(self, owner: str) -> list[float]:
        return [
            (self.placed[job] - about.created_ms) / 1000
            for job, about in self.submitted.items()
            if about.owner == owner
        ]


class SimulatedNode(threading.Thread):
    """A worker whose engine does nothing. `settings` names it."""

    def __init__(self, settings: Settings, shape: Shape, log: Log) -> None:
        super().__init__(name=settings.node_id, daemon=True)
        self.messages: queue.Queue[tuple[str, int] | None] = queue.Queue()
        self._settings, self._shape, self._log = settings, shape, log
        self._chance = random.Random(f"{shape.seed} {settings.node_id}")
        self._redis = connect(settings)
        self.register()

    def register(self) -> None:
        self._redis.register_script(SCRIPTS["register"])(
            args=[self._settings.node_id, "id", self._settings.node_id, "ranks", 1, "catalog", "{}"]
        )

    def beat(self) -> None:
        self._redis.register_script(SCRIPTS["heartbeat"])(args=[self._settings.node_id])

    def run(self) -> None:
        while (message := self.messages.get()) is not None:
            try:
                claim = Claim(self._settings, *message)
            except NotOurs:
                self._log.counts["refused claims"] += 1
                continue
            with closing(claim):
                self._attempt(claim)
        self._redis.close()

    def _attempt(self, claim: Claim) -> None:
        if self._fails(claim, self._shape.restarts):
            self._log.counts["restarts"] += 1
            self.register()
            return
        answer = "wait"
        while len(claim.nodes) > 1 and answer == "wait":
            answer, _ = claim.meet("here")
            time.sleep(POLL_S)
        if answer in STOPPED:
            return
        if claim.speaks:
            self._speak(claim)
        else:
            while claim.renew() not in STOPPED:
                time.sleep(POLL_S)

    def _fails(self, claim: Claim, share: float) -> bool:
        """Only what rank 0's node does in the first two attempts, because the third failure would end the job."""
        return claim.speaks and claim.attempt <= 2 and self._chance.random() < share

    def _speak(self, claim: Claim) -> None:
        log, job = self._log, claim.job_id
        log.at_once[job] += 1
        if log.at_once[job] > 1:
            log.overlaps.append(job)
        log.gangs[job] = len(claim.nodes)
        step = StepDone(stage="train", step=1, total=2).model_dump_json()
        claim.report(1, Progress(stage="train", step=1, total_steps=2), [step], ["a line of the log"])
        time.sleep(self._chance.uniform(*self._shape.work_s))
        # Before its end is told: the next attempt may begin at once.
        log.at_once[job] -= 1
        if self._fails(claim, self._shape.crashes):
            log.counts["crashes"] += 1
            claim.end(Ended(outcome="crashed", reason=Reason.CRASHED, message="why"))
        elif claim.finalize() == "ok" and claim.end(Ended(outcome="succeeded")) == "succeeded":
            log.succeeded[job] += 1


class UnreliableWaker:
    """In Celery's place: loses messages, and delivers some twice."""

    def __init__(self, nodes: Sequence[SimulatedNode], shape: Shape, log: Log) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._shape, self._log, self._chance = shape, log, random.Random(shape.seed)

    async def wake(self, node_id: str, job_id: str, attempt: int, node_rank: int) -> None:
        self._log.placed.setdefault(job_id, time.time() * 1000)
        chance = self._chance.random()
        if chance < self._shape.lost:
            self._log.counts["lost messages"] += 1
            return
        for _ in range(2 if chance > 1 - self._shape.twice else 1):
            self._nodes[node_id].messages.put((job_id, attempt))


class TimedScheduler(Scheduler):
    """Notes how long each of its rounds takes while it is elected."""

    log: Log

    async def tick(self) -> bool:
        began = time.perf_counter()
        elected = await super().tick()
        if elected:
            self.log.ticks.append((len(self.log.succeeded), time.perf_counter() - began))
        return elected


def spec_of(number: int, chance: random.Random) -> tuple[str, JobSpec]:
    """An owner and a job: two owners have many jobs, a third has a few."""
    owner = "cyd" if number % 40 == 39 else chance.choice(["ann", "bob"])
    nodes = chance.choice([1, 1, 1, 1, 2, 4, 8]) if owner != "cyd" else 1
    resources = Resources(
        nodes=nodes,
        min_nodes=4 if nodes == 8 else None,
        ranks_per_node=1,
        timeout_s=chance.choice([None, 60.0]),
    )
    spec = JobSpec(ckpt_dir="/c", val_set="/v", priority=chance.choice([0, 0, 0, 5, -5]), resources=resources)
    return owner, spec


async def simulate(url: str, folder: Path, shape: Shape, *, takeover: bool = False) -> Log:
    """Until every job has ended. With `takeover`, the elected scheduler dies when half of them have."""
    log = Log()
    settings = [
        Settings(node_id=f"node-{number:02}", redis_url=SecretStr(url), roots=(folder,), results_dir=folder, lease_s=10)
        for number in range(shape.nodes)
    ]
    nodes = [SimulatedNode(each, shape, log) for each in settings]
    waker = UnreliableWaker(nodes, shape, log)
    async with Redis.from_url(url, decode_responses=True) as redis:
        schedulers = [
            TimedScheduler(redis, waker, settle_s=1.0, backoff_ms=50, retention=Retention(most_jobs=shape.kept))
            for _ in range(2)
        ]
        for scheduler in schedulers:
            scheduler.log = log
        for node in nodes:
            node.start()
        helpers = [
            *(asyncio.create_task(scheduler.run()) for scheduler in schedulers),
            asyncio.create_task(_beat(nodes)),
            asyncio.create_task(_watch_memory(redis, log)),
        ]
        try:
            feeding = asyncio.create_task(_feed(JobStore(redis, redis), shape, log))
            while not feeding.done() or await redis.exists(keys.ACTIVE, keys.QUEUE):
                await asyncio.sleep(0.05)
                if takeover and len(log.succeeded) > shape.jobs / 2:
                    takeover = False
                    await end(helpers.pop(0))
                    log.counts["schedulers that died"] += 1
                assert not any(task.done() and task.exception() for task in (*helpers, feeding))
            await feeding
        finally:
            for task in helpers:
                await end(task)
            for node in nodes:
                node.messages.put(None)
            for node in nodes:
                await asyncio.to_thread(node.join)
    return log


async def _feed(store: JobStore, shape: Shape, log: Log) -> None:
    chance = random.Random(shape.seed)
    for number in range(shape.jobs):
        while len(log.submitted) - len(log.placed) >= shape.backlog:  # noqa: ASYNC110  # asks two counts
            await asyncio.sleep(0.01)
        owner, spec = spec_of(number, chance)
        record, _ = await store.submit(spec, owner, None, "digest")
        resources, created_ms = spec.resources, record.created_at.timestamp() * 1000
        log.submitted[record.id] = Submitted(
            owner=owner,
            need=(resources.nodes, resources.min_nodes, resources.timeout_s),
            created_ms=created_ms,
            place_ms=created_ms - spec.priority * POINT_MS,
        )


async def _beat(nodes: Sequence[SimulatedNode]) -> None:
    while True:
        for node in nodes:
            await asyncio.to_thread(node.beat)
        await asyncio.sleep(1.0)


async def _watch_memory(redis: Any, log: Log) -> None:
    while True:
        log.memory.append((len(log.succeeded), int((await redis.info("memory"))["used_memory"])))
        await asyncio.sleep(0.2)
