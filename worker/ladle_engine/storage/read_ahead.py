"""Reading ahead: while one part is worked on, a thread of its own makes the next ones ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def read_ahead(items: Iterable[T], most: int = 2) -> Iterator[Iterator[T]]:
    """The same items in the same order, each made by another thread; up to `most` wait to be taken.

    What making one raised is raised where it would have been taken. Once the block ends, no more are made.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        due: deque[Future[T | object]] = deque(thread.submit(next, iterator, _END) for _ in range(most))

        def taken() -> Iterator[T]:
            while (item := due.popleft().result()) is not _END:
                due.append(thread.submit(next, iterator, _END))
                yield item  # type: ignore[misc]  # it is no `_END`

        try:
            yield taken()
        finally:
            for future in due:
                future.cancel()
