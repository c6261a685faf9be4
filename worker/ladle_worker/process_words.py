"""What others see of this process: its command and its environment in `/proc`, which are its own memory.

A process that waits for a job was started before anybody knew the job. Once it has one, it shows what it would show if
it had been started for it: `ps` names the job, and the agent finds every process by the job's mark.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

STAT = Path("/proc/self/stat")
ARGUMENTS, ENVIRONMENT = (48, 49), (50, 51)
"""The fields of `stat`, counted from 1, with the first address and the one after the last."""


def show_command(words: Sequence[str]) -> None:
    """Replaces the command. What does not fit into the room of the first one is cut off."""
    start, end = _area(ARGUMENTS)
    text = b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)[: end - start - 1]
    _write(start, text, end - start)


def show_variable(name: str, value: str) -> None:
    """Replaces a variable that this process was started with. Raises ValueError if it was not, or had a shorter value.

    `os.environ` stays what it is.
    """
    start, end = _area(ENVIRONMENT)
    key = b"\0" + name.encode() + b"="
    before = b"\0" + ctypes.string_at(start, end - start)
    found = before.find(key)
    text = value.encode()
    room = before.find(b"\0", found + 1) - found - len(key)
    if found < 0 or len(text) > room:
        raise ValueError(f"`{name}` has no room for {len(text)} bytes")
    # `before` begins one byte before the area.
    _write(start + found + len(key) - 1, text, room)


def _write(address: int, text: bytes, room: int) -> None:
    ctypes.memmove(address, text.ljust(room, b"\0"), room)


def _area(fields: tuple[int, int]) -> tuple[int, int]:
    # The second field is the name in brackets, which may hold any character; the third comes after it.
    numbers = STAT.read_text().rpartition(")")[2].split()
    start, end = (int(numbers[field - 3]) for field in fields)
    return start, end
