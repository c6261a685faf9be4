"""When to try again, and how long to wait before: a budget in seconds, exponential backoff, jitter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

RETRY_STATUSES = frozenset({408, 429, 502, 503, 504})


@dataclass(kw_only=True)
class Backoff:
    """The pauses of one request, or of one stream that is followed."""

    patience_s: float
    """How long failures in a row are retried. After that `next_pause` is None."""
    first_s: float = 0.1
    longest_s: float = 3.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[float, float], float] = random.uniform
    _failing_since: float | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)

    def succeeded(self) -> None:
        """Something arrived, so the next failure counts as the first."""
        self._failing_since, self._failures = None, 0

    def answered(self) -> None:
        """The service answered, although with nothing useful: the budget starts again, the pauses keep growing."""
        self._failing_since = None

    def next_pause(self, asked_for_s: float | None = None) -> float | None:
        """Seconds to wait after a failure, or None when the budget is used up.

        `asked_for_s` is what the service asked for (`Retry-After`). It is respected within the budget.
        """
        now = self.clock()
        if self._failing_since is None:
            self._failing_since = now
        left_s = self.patience_s - (now - self._failing_since)
        if left_s <= 0:
            return None
        ceiling_s = min(self.longest_s, self.first_s * 2**self._failures)
        self._failures += 1
        pause_s = self.draw(ceiling_s / 2, ceiling_s) if asked_for_s is None else asked_for_s
        return min(pause_s, left_s)


def parse_retry_after(value: str | None) -> float | None:
    """The seconds of a `Retry-After` header. None for a date or nonsense: then our own pauses apply."""
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return float(value)
