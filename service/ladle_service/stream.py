"""A job's events as server-sent events. A Redis stream id is a valid SSE id, so `Last-Event-ID` resumes exactly."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from redis.exceptions import RedisError

from ladle_contracts import Event

logger = logging.getLogger(__name__)

RECONNECT_MS = 1000
"""How long a browser waits before it connects again."""


class StreamCut(Exception):
    """The stream cannot go on now. The client comes back with the last id that it saw."""


def encode(event: Event) -> bytes:
    """One event as bytes. Its `event:` field is the kind, so that a page can listen to some kinds only."""
    return format_sse_event(data_str=event.model_dump_json(), event=event.body.kind, id=event.id)


async def sse_bytes(events: AsyncGenerator[bytes | None]) -> AsyncGenerator[bytes]:
    """The stream's bytes. A `None` is sent as a comment, so that nobody mistakes the silence for a dead connection."""
    # Sent at once, so that the client gets the headers and knows that it is connected.
    yield format_sse_event(retry=RECONNECT_MS)
    async with aclosing(events):
        try:
            async for data in events:
                yield KEEPALIVE_COMMENT if data is None else data
        except StreamCut:
            return
        except RedisError as error:
            # It is too late for a problem.
            logger.warning("a stream was cut, because Redis does not answer: %r", error)
