"""What is said again and again is said a few times, and then counted: a log must not fill the disk."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60.0
WARNINGS = 5
"""How often a warning or an error may be logged in one window."""
NOTES = 6000
"""How often anything below may be, such as a line for each request."""
KINDS = 1000
"""How many kinds of messages are remembered."""
_VARYING = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass
class _Kind:
    since: float
    logged: int = 0
    left_out: int = 0


@dataclass
class Repeats(logging.Filter):
    """Leaves out messages of one kind that come too often. Two are of one kind if only numbers in them differ."""

    clock: Callable[[], float] = time.monotonic
    _kinds: dict[tuple[str, int, str], _Kind] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            return self._filter(record)

    def _filter(self, record: logging.LogRecord) -> bool:
        now, kind = self.clock(), self._kind_of(record)
        if now - kind.since >= WINDOW_S:
            if kind.left_out:
                _append(record, f"{kind.left_out} more like this were left out before")
            kind.since, kind.logged, kind.left_out = now, 0, 0
        most = WARNINGS if record.levelno >= logging.WARNING else NOTES
        if kind.logged >= most:
            kind.left_out += 1
            return False
        kind.logged += 1
        if kind.logged == most:
            _append(record, f"more like this are left out for up to {WINDOW_S:.0f} s")
        return True

    def _kind_of(self, record: logging.LogRecord) -> _Kind:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        line = f"{str(record.msg).partition(chr(10))[0][:200]} {error}"
        key = record.name, record.levelno, _VARYING.sub("0", line)
        if key not in self._kinds and len(self._kinds) >= KINDS:
            del self._kinds[next(iter(self._kinds))]
        return self._kinds.setdefault(key, _Kind(self.clock()))


def _append(record: logging.LogRecord, text: str) -> None:
    record.msg, record.args = f"{record.getMessage().rstrip()} ({text})", ()
