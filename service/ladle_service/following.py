"""Following jobs: one reader of all events, over one Redis connection, for any number of watchers.

Each job that somebody follows has a `Feed`: its latest events, encoded once. A watcher remembers only the id of the
last event that it took. A watcher that is behind its feed reads pages from Redis until it has caught up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from ladle_contracts import TERMINAL_STATES, Event, StateChanged, keys
from ladle_service.ending import end
from ladle_service.feed import FIRST, Entry, Feed, Order, chunk_of, id_of, order_of
from ladle_service.stream import StreamCut, encode

logger = logging.getLogger(__name__)

READ_MS = 200
"""How long one read waits for events. A job that somebody begins to follow takes part from the next read on."""
PAGE = 100
PAGES_AT_ONCE = 8
"""How many watchers may catch up at the same time, so that other requests find a Redis connection."""
WINDOW_EVENTS = 400
CHECK_S = 5.0
"""After so much silence the reader looks whether the job still exists."""

Parse = Callable[[str, str, Mapping[str, str]], Event]
Fields = tuple[str, Mapping[str, str]]
"""An entry of a Redis stream: its id and its fields."""


class Feeds:
    """The feeds of all jobs that are followed.

    `streams` has the connection of the reader, which waits in Redis. `commands` is the pool for short requests.
    """

    def __init__(self, streams: Redis, commands: Redis, parse: Parse) -> None:
        # redis-py's annotations do not know that responses are decoded.
        self._streams: Any = streams
        self._commands: Any = commands
        self._parse = parse
        self._feeds: dict[str, Feed] = {}
        self._catching_up = asyncio.Semaphore(PAGES_AT_ONCE)
        self._reader: asyncio.Task[None] | None = None
        self._ended = False

    async def follow(self, job_id: str, after: str | None) -> AsyncGenerator[bytes | None]:
        """Every event after the id `after` as it happens, encoded, several at a time; None after a while without any.

        Ends with the event that ends the job, when the job is deleted, or with `end`. Raises `StreamCut`, or
        `RedisError` while it catches up. Then nothing was lost: follow again after the last event.
        """
        seen = order_of(after)
        async with self._joined(job_id, seen) as feed:
            while True:
                floor = feed.floor
                entries = feed.since(seen) if seen >= floor else await self._page(job_id, seen)
                if entries:
                    seen = entries[-1].order
                    yield b"".join(entry.data for entry in entries)
                elif seen < floor:
                    # There was something before the window, and it was deleted.
                    seen = floor
                elif feed.is_cut:
                    raise StreamCut
                elif feed.is_over or self._ended:
                    return
                elif not await feed.news():
                    yield None

    async def end(self) -> None:
        """Ends all streams, because the service stops."""
        self._ended = True
        if self._reader is not None:
            await end(self._reader)
        for feed in list(self._feeds.values()):
            await feed.wake()

    @asynccontextmanager
    async def _joined(self, job_id: str, seen: Order) -> AsyncIterator[Feed]:
        feed = self._feeds.setdefault(job_id, Feed(job_id))
        feed.watchers += 1
        try:
            async with feed.opening:
                if not feed.is_open:
                    await self._open(feed, seen)
            yield feed
        finally:
            feed.watchers -= 1
            if feed.watchers == 0:
                self._forget(feed)

    def _forget(self, feed: Feed) -> None:
        if self._feeds.get(feed.job_id) is feed:
            del self._feeds[feed.job_id]

    async def _open(self, feed: Feed, seen: Order) -> None:
        """Fills the window with what the first watcher needs, if it is not too much."""
        key = keys.events(feed.job_id)
        low = f"({id_of(seen)}" if seen > FIRST else "-"
        found = await self._commands.xrevrange(key, min=low, count=WINDOW_EVENTS)
        entries = [self._entry(feed.job_id, fields) for fields in reversed(found)]
        if not entries:
            last = await self._commands.xrevrange(key, count=1)
            if last:
                end = self._entry(feed.job_id, last[0])
                feed.floor, feed.end, feed.is_over = end.order, end.order, end.is_last
        else:
            feed.floor = entries[0].order if len(entries) == WINDOW_EVENTS else seen
            feed.add(entry for entry in entries if entry.order > feed.floor)
        feed.is_open = True
        feed.quiet_since = asyncio.get_running_loop().time()
        if self._reader is None and not self._ended:
            self._reader = asyncio.create_task(self._read_on())

    async def _page(self, job_id: str, seen: Order) -> list[Entry]:
        """The next events after `seen`, from Redis."""
        low = f"({id_of(seen)}" if seen > FIRST else "-"
        async with self._catching_up:
            found = await self._commands.xrange(keys.events(job_id), min=low, count=PAGE)
        return chunk_of(self._entry(job_id, fields) for fields in found)

    async def _read_on(self) -> None:
        """Reads until nobody follows a job that can still change."""
        try:
            while feeds := [feed for feed in self._feeds.values() if feed.is_open and not feed.is_over]:
                await self._read(feeds)
                await self._check(feeds)
        except Exception as error:
            logger.warning("all streams were cut, because the events cannot be read: %r", error)
            self._reader = None  # Whoever comes from now on starts another.
            for feed in list(self._feeds.values()):
                await self._cut(feed)
        else:
            self._reader = None

    async def _read(self, feeds: Iterable[Feed]) -> None:
        by_key = {keys.events(feed.job_id): feed for feed in feeds}
        ends = {key: id_of(feed.end) for key, feed in by_key.items()}
        for key, found in await self._streams.xread(ends, count=PAGE, block=READ_MS):
            feed = by_key[key]
            try:
                feed.add([self._entry(feed.job_id, fields) for fields in found])
            except StreamCut:
                await self._cut(feed)
            feed.quiet_since = asyncio.get_running_loop().time()
            await feed.wake()

    async def _check(self, feeds: Iterable[Feed]) -> None:
        """Ends the feeds of jobs that were deleted, or whose last event is not in Redis."""
        now = asyncio.get_running_loop().time()
        quiet = [feed for feed in feeds if feed.quiet_since + CHECK_S < now and not feed.is_over]
        if not quiet:
            return
        async with self._commands.pipeline(transaction=False) as pipe:
            for feed in quiet:
                pipe.hget(keys.job(feed.job_id), "state")
            states = await pipe.execute()
        for feed, state in zip(quiet, states, strict=True):
            feed.quiet_since = now
            if state is None or (state in TERMINAL_STATES and not await self._page(feed.job_id, feed.end)):
                feed.is_over = True
                await feed.wake()

    async def _cut(self, feed: Feed) -> None:
        feed.is_cut = True
        self._forget(feed)
        await feed.wake()

    def _entry(self, job_id: str, fields: Fields) -> Entry:
        try:
            event = self._parse(job_id, *fields)
        except (ValueError, KeyError) as error:
            logger.error("the streams of job %s are cut, because its event %s is none: %r", job_id, fields[0], error)
            raise StreamCut from error
        is_last = isinstance(event.body, StateChanged) and event.body.state in TERMINAL_STATES
        return Entry(order_of(event.id), encode(event), is_last)
