"""Wait for something to become true, with a deadline: tests never sleep for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 300.0
"""What a test waits at the longest for something that takes a moment on a quiet machine: a busy one passes too."""

SOON_S = 90.0
"""What takes a second or two on a quiet machine, where a fault would take for ever."""


def until(
    predicate: Callable[[], T | None], *, timeout_s: float = DEADLINE_S, interval_s: float = 0.05, what: str = ""
) -> T:
    """The first true value of `predicate()`; an AssertionError with the last value after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s for {what or predicate}, and it is still {value!r}")
        time.sleep(interval_s)
