"""What both ends of the Celery broker must agree on."""

from __future__ import annotations

import re

VISIBILITY_TIMEOUT_S = 7 * 24 * 3600
"""Redis gives a message to another worker after this time, even while the first is at work. Claims make that harmless;
this makes it rare."""


def broker_url(redis_url: str) -> str:
    """kombu's spelling of a Redis URL: a unix socket's is `redis+socket://`."""
    return re.sub(r"^unix://", "redis+socket://", redis_url).replace("?db=", "?virtual_host=")
