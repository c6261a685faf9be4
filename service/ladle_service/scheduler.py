"""Reserves nodes for queued jobs, wakes the nodes, and ends attempts that nobody looks after.

Every API process runs one; a lock with a fencing number elects the one that acts. Its decisions are Lua scripts that
check the fence, so a deposed scheduler that wakes up late changes nothing.
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

from ladle_contracts import keys
from ladle_contracts.transitions import BACKOFF_MS, SCRIPTS
from ladle_service.store import NODE_LIFE_MS

logger = logging.getLogger(__name__)

LOCK_MS = 10_000
PERIOD_S = 0.5
"""How often it looks when nothing wakes it."""
CLAIM_MS = 30_000
"""How long woken nodes have to claim a job before they are given back."""
RESEND_S = 3.0
"""How often an unclaimed job's nodes are woken again: messages can vanish."""
SETTLE_S = 15.0
"""After Redis was away nothing is reaped for as long as a lease lasts: the nodes could not renew either."""


class Wakes(Protocol):
    async def wake(self, node_id: str, job_id: str, attempt: int, node_rank: int) -> None: ...


class Scheduler:
    """`run` until cancelled. `redis` must decode responses."""

    def __init__(self, redis: Redis, waker: Wakes, *, settle_s: float = SETTLE_S, backoff_ms: int = BACKOFF_MS) -> None:
        # redis-py's annotations do not know that responses are decoded.
        self._redis: Any = redis
        self._waker = waker
        self._settle_s = settle_s
        self._backoff_ms = backoff_ms
        self._token = secrets.token_hex(8)
        self._elect = redis.register_script(SCRIPTS["elect"])
        self._schedule = redis.register_script(SCRIPTS["schedule"])
        self._reap = redis.register_script(SCRIPTS["reap"])
        self._reap_from = 0.0
        self._woken = asyncio.Event()
        self._woken_at: dict[str, float] = {}

    async def run(self) -> None:
        wake = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    await self.tick()
                except (RedisError, OperationalError, OSError) as error:
                    logger.warning("the scheduler cannot do its work in Redis: %r", error)
                    self._reap_from = time.monotonic() + self._settle_s
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), PERIOD_S)
                self._woken.clear()
        finally:
            wake.cancel()

    async def tick(self) -> bool:
        """One look at everything; False while another scheduler is the elected one."""
        fence = await self._elect(args=[self._token, LOCK_MS])
        if not fence:
            return False
        await self._look_after(fence)
        await self._place(fence)
        return True

    async def resign(self) -> None:
        """Gives the lock back, so that another takes over at once."""
        if await self._redis.get(keys.SCHEDULER_LOCK) == self._token:
            await self._redis.delete(keys.SCHEDULER_LOCK)

    async def _look_after(self, fence: str) -> None:
        active = await self._redis.smembers(keys.ACTIVE)
        for gone in self._woken_at.keys() - active:
            del self._woken_at[gone]
        for job_id in active:
            if time.monotonic() < self._reap_from:
                continue
            answer = await self._reap(args=[fence, job_id, self._backoff_ms])
            if answer == "unclaimed":
                await self._wake_again(job_id)
            elif answer not in ("alive", "deposed"):
                logger.info("an attempt of job %s was ended: %s", job_id, answer)

    async def _place(self, fence: str) -> None:
        for job_id in await self._redis.zrange(keys.QUEUE, 0, -1):
            answer, *rest = await self._schedule(args=[fence, job_id, CLAIM_MS, NODE_LIFE_MS])
            if answer == "scheduled":
                attempt, *nodes = rest
                await self._wake(job_id, int(attempt), nodes)
            elif answer in ("busy", "deposed"):
                # Strictly in order: a small job does not overtake a large one that waits for nodes to become free.
                return

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
        """Turns published words into wake-ups; without them the period does."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(keys.WAKE_CHANNEL)
                    async for _ in pubsub.listen():
                        self._woken.set()
            except (RedisError, OSError):
                await asyncio.sleep(PERIOD_S)
