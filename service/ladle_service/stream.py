"""A job's events as server-sent events. A Redis stream id is a valid SSE id, so `Last-Event-ID` resumes exactly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from redis.exceptions import RedisError

from ladle_contracts import Event

logger = logging.getLogger(__name__)

RECONNECT_MS = 1000
"""How long a browser waits before it connects again."""


def encode(event: Event) -> bytes:
    """One event as bytes. Its `event:` field is the kind, so that a page can listen to some kinds only."""
    return format_sse_event(data_str=event.model_dump_json(), event=event.body.kind, id=event.id)


async def sse_bytes(events: AsyncGenerator[Event | None], stopping: asyncio.Event) -> AsyncGenerator[bytes]:
    """The stream's bytes until the job has ended or the service stops. In that case clients connect again.

    A `None` among the events is sent as a comment, so that nobody mistakes the silence for a dead connection.
    """
    # Sent at once, so that the client gets the headers and knows that it is connected.
    yield format_sse_event(retry=RECONNECT_MS)
    stop = asyncio.ensure_future(stopping.wait())
    following: asyncio.Future[Event | None] | None = None
    try:
        while not stop.done():
            following = asyncio.ensure_future(anext(events))
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            event = following.result()
            yield KEEPALIVE_COMMENT if event is None else encode(event)
    except StopAsyncIteration:
        return
    except RedisError as error:
        # It is too late for a problem. The stream is cut, and the client comes back with the last id that it saw.
        logger.warning("a stream was cut because Redis does not answer: %r", error)
    finally:
        # The Redis connection is returned even if the client is gone and this task is cancelled.
        with anyio.CancelScope(shield=True):
            stop.cancel()
            if following is not None and not following.done():
                following.cancel()
                await asyncio.wait({following})
            await events.aclose()
