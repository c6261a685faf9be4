"""Connections to Redis, and patience with it: a server that is away, full or read-only is not the job's failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ladle_contracts.redis_outages import outage_of
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


def connect(settings: Settings) -> Any:
    """A client that decodes responses. The type is `Any` because redis-py's annotations do not know that."""
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
    )


class OutageLog:
    """Says what is wrong with Redis once, and not at every attempt; and when it is over."""

    def __init__(self) -> None:
        self._said: str | None = None

    def failed(self, error: RedisError) -> None:
        words = outage_of(error) or f"Redis refuses a command: {error}"
        if words != self._said:
            logger.warning("%s. Trying again until it works.", words)
        self._said = words

    def passed(self) -> None:
        if self._said is not None:
            logger.warning("Redis works again.")
        self._said = None


def patiently(call: Callable[[], T], *, between: Callable[[], None] = lambda: None) -> T:
    """Calls until Redis can do it, however long that takes. `between` is called before each pause, and may raise.

    Raises RedisError only for a command that Redis does not understand.
    """
    log = OutageLog()
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            answer = call()
        except RedisError as error:
            if outage_of(error) is None:
                raise
            log.failed(error)
        else:
            log.passed()
            return answer
        between()
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
