"""Connections to Redis that survive its restarts."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError
from redis.retry import Retry

from ladle_worker.settings import Settings

PATIENCE = 600
"""How often a change of state is tried, about once per second: ten minutes."""


def connect(settings: Settings, *, retries: int) -> Any:
    """A client that decodes responses. The type is `Any` because redis-py's annotations do not know that."""
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=30,
        retry=Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), retries),
        retry_on_error=[ConnectionError, TimeoutError, BusyLoadingError],
    )
