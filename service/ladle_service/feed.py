"""The latest events of one job, for all who follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

WINDOW_BYTES = 128 << 10
CHUNK_BYTES = 32 << 10
"""What is sent at once, and so waits in memory for a client that reads slowly. An event is never divided."""
KEEP_ALIVE_S = 10.0
WAKE_AT_ONCE = 20
"""How many watchers get an event before other requests have their turn."""

Order = tuple[int, int]
"""An event's id as numbers."""
FIRST: Order = (0, 0)


class Entry(NamedTuple):
    """One event, ready to be sent."""

    order: Order
    data: bytes
    is_last: bool
    """Whether it ends the job."""


@dataclass(eq=False)
class Feed:
    """The events of one job after `floor`, as far as they were read."""

    job_id: str
    floor: Order = FIRST
    end: Order = FIRST
    """The last event that was read."""
    entries: deque[Entry] = field(default_factory=deque)
    size_bytes: int = 0
    watchers: int = 0
    is_open: bool = False
    is_over: bool = False
    """Whether no more events will come."""
    is_cut: bool = False
    """Whether no more events can be read."""
    quiet_since: float = 0.0
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: set[asyncio.Future[None]] = field(default_factory=set)

    def add(self, entries: Iterable[Entry]) -> None:
        """What was read, oldest first. What no longer fits into the window is forgotten."""
        for entry in entries:
            self.entries.append(entry)
            self.size_bytes += len(entry.data)
            self.end = entry.order
            self.is_over = self.is_over or entry.is_last
        while self.size_bytes > WINDOW_BYTES:
            oldest = self.entries.popleft()
            self.size_bytes -= len(oldest.data)
            self.floor = oldest.order

    def since(self, order: Order) -> list[Entry]:
        """The next events after `order`, which must not be before `floor`."""
        newer = list(takewhile(lambda entry: entry.order > order, reversed(self.entries)))
        return chunk_of(reversed(newer))

    async def news(self) -> bool:
        """Waits until something has changed. False if nothing has for a while."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                await waiting
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiting)
        return True

    async def wake(self) -> None:
        """Ends every `news`."""
        waiting, self._waiting = self._waiting, set()
        for number, one in enumerate(waiting, start=1):
            if not one.done():
                one.set_result(None)
            if number % WAKE_AT_ONCE == 0:
                await asyncio.sleep(0)


def chunk_of(entries: Iterable[Entry]) -> list[Entry]:
    """As many as are sent at once: at least one, if there is one."""
    chosen: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        size_bytes += len(entry.data)
        if chosen and size_bytes > CHUNK_BYTES:
            break
        chosen.append(entry)
    return chosen


def order_of(event_id: str | None) -> Order:
    time_ms, _, sequence = (event_id or "0-0").partition("-")
    return int(time_ms), int(sequence or 0)


def id_of(order: Order) -> str:
    return f"{order[0]}-{order[1]}"
