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
"""How often the same warning or error is logged in one window."""
VARIANTS = 30
"""How often those are that differ only in what they are about, such as the job."""
NOTES = 6000
"""How often anything below a warning is, such as a line for each request."""
KINDS = 1000
"""How many kinds of messages are remembered."""
_VARYING = re.compile(r"0x[0-9a-f]+|\d+")

_Key = tuple[str, int, str]


@dataclass
class _Kind:
    since: float
    logged: int = 0
    left_out: int = 0


@dataclass
class Repeats(logging.Filter):
    """Leaves out messages that come too often. Two are the same if only numbers in them differ.

    A record with the attribute `every_one` is never left out.
    """

    clock: Callable[[], float] = time.monotonic
    _kinds: dict[_Key, _Kind] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def filter(self, record: logging.LogRecord) -> bool:
        """logging's own."""
        if getattr(record, "every_one", False):
            return True
        with self._lock:
            kinds = [(self._kind(key, record), most) for key, most in _limits(record)]
            for kind, most in kinds:
                if kind.logged >= most:
                    kind.left_out += 1
                    return False
            for kind, _ in kinds:
                kind.logged += 1
            if any(kind.logged == most for kind, most in kinds):
                _append(record, f"more like this are left out for up to {WINDOW_S:.0f} s")
            return True

    def _kind(self, key: _Key, record: logging.LogRecord) -> _Kind:
        now = self.clock()
        if key not in self._kinds and len(self._kinds) >= KINDS:
            del self._kinds[next(iter(self._kinds))]
        kind = self._kinds.setdefault(key, _Kind(now))
        if now - kind.since >= WINDOW_S:
            if kind.left_out:
                _append(record, f"{kind.left_out} more like this were left out before")
            kind.since, kind.logged, kind.left_out = now, 0, 0
        return kind


def _limits(record: logging.LogRecord) -> list[tuple[_Key, int]]:
    """Of which kinds a message is, and how many there may be of each."""
    template = _key(record, str(record.msg))
    if record.levelno < logging.WARNING:
        return [(template, NOTES)]
    text = _key(record, _message(record))
    return [(text, WARNINGS)] if text == template else [(text, WARNINGS), (template, VARIANTS)]


def _key(record: logging.LogRecord, text: str) -> _Key:
    error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    line, _, _ = text.partition("\n")
    return record.name, record.levelno, _VARYING.sub("0", f"{line[:200]} {error}")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # Its arguments are wrong. The handler reports that.
        return str(record.msg)


def _append(record: logging.LogRecord, text: str) -> None:
    record.msg, record.args = f"{_message(record).rstrip()} ({text})", ()
