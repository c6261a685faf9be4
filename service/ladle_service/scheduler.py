"""Reserves nodes for queued jobs, wakes the nodes, and ends attempts whose nodes no longer respond.

Every API process runs one. A lock with a fencing number elects the one that acts. Its decisions are Lua scripts that
check the fence, so a scheduler that has lost the lock changes nothing when it wakes up late.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from contextlib import suppress
from typing import Any, Protocol

from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ladle_contracts import keys, telemetry
from ladle_contracts.redis_outages import outage_of
from ladle_contracts.transitions import BACKOFF_MS, SCRIPTS
from ladle_service.ending import end
from ladle_service.retention import KEEP_EVERYTHING, Retention
from ladle_service.store import NODE_LIFE_MS
from ladle_service.upkeep import Upkeep

logger = logging.getLogger(__name__)

LOCK_MS = 10_000
PERIOD_S = 0.5
"""How often it runs when nothing wakes it."""
CLAIM_MS = 30_000
"""How long the nodes that were woken have to claim a job before they are released."""
RESEND_S = 3.0
"""How often the nodes of an unclaimed job are woken again, because messages can get lost."""
SETTLE_S = 15.0
"""How much time every lease gets after a pause, because the nodes may have paused too, or could not reach Redis."""
PAUSE_MS = 2_000
"""By how much Redis' clock moves between two rounds at the most, unless something stood still or the clock was set."""


class Wakes(Protocol):
    async def wake(self, node_id: str, job_id: str, attempt: int, node_rank: int) -> None: ...


class Tells(Protocol):
    """Tells others of jobs that have ended."""

    async def step(self, fence: str) -> None: ...

    async def close(self) -> None: ...


class Scheduler:
    """Call `run`, which ends only when it is cancelled. `redis` must decode responses."""

    def __init__(
        self,
        redis: Redis,
        waker: Wakes,
        *,
        retention: Retention = KEEP_EVERYTHING,
        webhooks: Tells | None = None,
        settle_s: float = SETTLE_S,
        backoff_ms: int = BACKOFF_MS,
    ) -> None:
        # redis-py's annotations do not know that responses are decoded.
        self._redis: Any = redis
        self._waker = waker
        self._settle_ms = round(settle_s * 1000)
        self._backoff_ms = backoff_ms
        self._token = secrets.token_hex(8)
        self._elect = redis.register_script(SCRIPTS["elect"])
        self._settle = redis.register_script(SCRIPTS["settle"])
        self._next = redis.register_script(SCRIPTS["next"])
        self._schedule = redis.register_script(SCRIPTS["schedule"])
        self._reap = redis.register_script(SCRIPTS["reap"])
        self._upkeep = Upkeep(redis, retention)
        self._webhooks = webhooks
        self._fence = ""
        self._clock_ms = 0
        self._woken = asyncio.Event()
        self._woken_at: dict[str, float] = {}

    async def run(self) -> None:
        wake = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    await self.tick()
                except (RedisError, OperationalError, OSError) as error:
                    logger.warning("the scheduler cannot work: %s", outage_of(error) or repr(error))
                    self._clock_ms = 0
                # Not `wait_for`: Python 3.11's forgets a cancellation that comes together with what it waits for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD_S):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            await end(wake)
            if self._webhooks is not None:
                await self._webhooks.close()

    async def tick(self) -> bool:
        """One round. False while another scheduler is elected."""
        paused = await self._look_at_clock()
        fence = await self._elect(args=[self._token, LOCK_MS])
        # Before this one was elected, perhaps no scheduler was at work.
        paused, self._fence = paused or fence != self._fence, fence
        if not fence:
            return False
        if paused:
            await self._settle(args=[fence, self._settle_ms])
        await self._look_after(fence)
        await self._place(fence)
        if self._webhooks is not None:
            await self._webhooks.step(fence)
        await self._upkeep.step(fence)
        return True

    async def _look_at_clock(self) -> bool:
        """Whether there was a pause: this process, Redis or the whole machine stood still, or the clock was set.

        It is Redis' clock, which also judges the leases, and which goes on while a laptop sleeps.
        """
        seconds, micros = await self._redis.time()
        before, self._clock_ms = self._clock_ms, int(seconds) * 1000 + int(micros) // 1000
        return not 0 <= self._clock_ms - before <= PAUSE_MS

    async def resign(self) -> None:
        """Releases the lock, so that another scheduler takes over at once."""
        if await self._redis.get(keys.SCHEDULER_LOCK) == self._token:
            await self._redis.delete(keys.SCHEDULER_LOCK)

    async def _look_after(self, fence: str) -> None:
        active = await self._redis.smembers(keys.ACTIVE)
        for gone in self._woken_at.keys() - active:
            del self._woken_at[gone]
        if not active:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in active:
                await self._reap(args=[fence, job_id, self._backoff_ms, self._clock_ms, PAUSE_MS], client=pipe)
            answers = await pipe.execute()
        for job_id, answer in zip(active, answers, strict=True):
            if answer == "unclaimed":
                await self._wake_again(job_id)
            elif answer not in ("alive", "late", "deposed"):
                logger.info("an attempt of job %s was ended: %s", job_id, answer)

    async def _place(self, fence: str) -> None:
        """Starts jobs until none may start."""
        while found := await self._next(args=[fence, NODE_LIFE_MS, CLAIM_MS]):
            job_id, *how = found
            answer, *rest = await self._schedule(args=[fence, job_id, CLAIM_MS, NODE_LIFE_MS, *how])
            if answer != "scheduled":
                # Something has changed since. The next round looks again.
                return
            attempt, *nodes = rest
            if telemetry.is_on():
                await self._trace(job_id, int(attempt), nodes)
            await self._wake(job_id, int(attempt), nodes)

    async def _trace(self, job_id: str, attempt: int, nodes: list[str]) -> None:
        """How long it has waited, as a part of its trace."""
        trace, queued_ms = await self._redis.hmget(keys.job(job_id), ["trace", "queued_at"])
        if trace and queued_ms:
            about: telemetry.Attributes = {
                "ladle.job": job_id,
                "ladle.attempt": attempt,
                "ladle.nodes": ",".join(nodes),
            }
            telemetry.add_span("schedule", int(queued_ms) / 1000, parent=trace, attributes=about)

    async def _wake_again(self, job_id: str) -> None:
        if time.monotonic() - self._woken_at.get(job_id, 0.0) < RESEND_S:
            return
        attempt, nodes = await self._redis.hmget(keys.job(job_id), ["attempt", "nodes"])
        await self._wake(job_id, int(attempt), json.loads(nodes))

    async def _wake(self, job_id: str, attempt: int, nodes: list[str]) -> None:
        self._woken_at[job_id] = time.monotonic()
        for node_rank, node_id in enumerate(nodes):
            await self._waker.wake(node_id, job_id, attempt, node_rank)

    async def _listen(self) -> None:
        """Wakes the scheduler when something is published. Otherwise it runs once per period."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(keys.WAKE_CHANNEL)
                    async for _ in pubsub.listen():
                        self._woken.set()
            except (RedisError, OSError):
                await asyncio.sleep(PERIOD_S)
