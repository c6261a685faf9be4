"""All processes of an attempt, and their end: to the last one, wherever it has gone."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ladle_worker.family import JOB_VARIABLE

logger = logging.getLogger(__name__)

KILL_S = 10.0
"""How long SIGKILL is repeated. Only a process that waits inside the kernel, for a disk that hangs, outlives it."""
POLL_S = 0.01
QUIET_LOOKS = 3
"""How often nothing must be found: what forks on and on may be missed by one look."""
ENDED = ("Z", "X")
PROCESSES = Path("/proc")


class Running(NamedTuple):
    """A process that lives. psutil needs several times as long to find one, and some live shorter than that."""

    pid: int
    parent: int
    group: int
    state: str
    """One letter; `D` waits inside the kernel."""


Find = Callable[[], Collection[Running]]
Meanwhile = Callable[[], None]


def nothing() -> None:
    """What is done meanwhile by default."""


def end_all(find: Find, grace_s: float, meanwhile: Meanwhile = nothing) -> Collection[Running]:
    """Ends all that `find` finds: SIGTERM, after `grace_s` SIGKILL, until it finds nothing. What is still there.

    `meanwhile` is called again and again.
    """
    if _signalled(find, signal.SIGTERM):
        _wait_until_gone(find, grace_s, meanwhile)
    deadline, quiet = time.monotonic() + KILL_S, 0
    while time.monotonic() < deadline:
        quiet = 0 if _signalled(find, signal.SIGKILL) else quiet + 1
        if quiet == QUIET_LOOKS:
            return ()
        meanwhile()
        time.sleep(POLL_S)
    left = find()
    for process in left:
        logger.error("process %s cannot be ended: its state is %s", process.pid, process.state)
    return left


def marked(mark: str) -> list[Running]:
    """All that have inherited the mark of a job on this node, and that this process may look at."""
    variable = f"{JOB_VARIABLE}={mark}".encode()
    return [process for process in _living() if variable in _environment(process.pid)]


def descendants(spared: Collection[int] = ()) -> list[Running]:
    """All below this process that live, except for the `spared` children and what is below them."""
    below: dict[int, list[Running]] = {}
    for process in _all():
        below.setdefault(process.parent, []).append(process)
    waiting = [child for child in below.get(os.getpid(), []) if child.pid not in spared]
    found = []
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += below.get(process.pid, [])
    return [process for process in found if process.state not in ENDED]


def bury(spared: Collection[int]) -> None:
    """Takes note of the adopted children that have ended: nobody else does, and they would stay in the list."""
    for process in _all():
        if process.parent == os.getpid() and process.pid not in spared and process.state in ENDED:
            with suppress(OSError):
                os.waitpid(process.pid, os.WNOHANG)


def children() -> set[int]:
    return {process.pid for process in _all() if process.parent == os.getpid()}


def _signalled(find: Find, number: signal.Signals) -> bool:
    """False if there was nothing. Whole groups at once, because none of their processes can escape by forking."""
    found = find()
    own = os.getpgrp()
    for group in {process.group for process in found} - {own}:
        with suppress(OSError):
            os.killpg(group, number)
    for process in found:
        if process.group == own:
            with suppress(OSError):
                os.kill(process.pid, number)
    return bool(found)


def _wait_until_gone(find: Find, timeout_s: float, meanwhile: Meanwhile) -> None:
    deadline = time.monotonic() + timeout_s
    while find() and time.monotonic() < deadline:
        meanwhile()
        time.sleep(POLL_S)


def _living() -> Iterator[Running]:
    return (process for process in _all() if process.state not in ENDED)


def _all() -> Iterator[Running]:
    for name in os.listdir(PROCESSES):  # noqa: PTH208 - each name costs time
        if name.isdecimal() and (process := _look(name)):
            yield process


def _look(name: str) -> Running | None:
    """None if it has ended."""
    try:
        text = (PROCESSES / name / "stat").read_text()
    except OSError:
        return None
    # The command stands in brackets and may hold any character.
    state, parent, group = text[text.rindex(")") + 2 :].split()[:3]
    return Running(int(name), int(parent), int(group), state)


def _environment(pid: int) -> list[bytes]:
    """Empty where it is not for this user to read."""
    try:
        return (PROCESSES / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
