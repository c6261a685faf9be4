"""What the elected scheduler does now and then: it removes what is old, and repairs the indexes."""

from __future__ import annotations

import logging
import time
from typing import Any

from redis.asyncio import Redis

from ladle_contracts.transitions import SCRIPTS
from ladle_service.retention import Retention

logger = logging.getLogger(__name__)

BATCH = 500
"""How many jobs one script looks at or removes, so that nobody waits for Redis meanwhile."""
SWEEP_S = 60.0
INDEX_S = 600.0
"""How often the indexes are compared with the jobs. Only a service or a worker of an earlier version breaks them."""


class Upkeep:
    """Call `step` in every round of the elected scheduler: it does at most a batch of each."""

    def __init__(self, redis: Redis, retention: Retention) -> None:
        self._sweep = redis.register_script(SCRIPTS["sweep"])
        self._index = redis.register_script(SCRIPTS["index"])
        self._retention = retention
        self._fence = ""
        self._sweep_at = self._index_at = 0.0
        self._cursor = "0"

    async def step(self, fence: str) -> None:
        """Everything is due at once when this scheduler has just been elected."""
        if fence != self._fence:
            self._fence, self._cursor, self._sweep_at, self._index_at = fence, "0", 0.0, 0.0
        now = time.monotonic()
        if now >= self._index_at:
            answer: Any = await self._index(args=[fence, self._cursor, BATCH])
            self._cursor = "0" if answer == "deposed" else answer
            if self._cursor == "0":
                self._index_at = now + INDEX_S
        if now >= self._sweep_at:
            removed: Any = await self._sweep(args=[fence, *self._retention.limits, BATCH])
            if removed not in ("deposed", 0):
                logger.info("removed %s old jobs, traces and nodes from Redis", removed)
            if removed == "deposed" or int(removed) < BATCH:
                self._sweep_at = now + SWEEP_S
