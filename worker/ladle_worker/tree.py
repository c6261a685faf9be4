"""All processes of an attempt, and their end: to the last one, wherever it has gone."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import psutil

from ladle_worker.family import JOB_VARIABLE

logger = logging.getLogger(__name__)

KILL_S = 10.0
"""How long SIGKILL is repeated. Only a process that waits inside the kernel, for a disk that hangs, outlives it."""
POLL_S = 0.02
ROUNDS = 100
"""How often it looks for what was started while the rest was being stopped."""

Find = Callable[[], list[psutil.Process]]


def end_all(find: Find, grace_s: float) -> list[psutil.Process]:
    """Ends all that `find` finds: SIGTERM, after `grace_s` SIGKILL, until it finds nothing. What is still there."""
    _signal(find(), signal.SIGTERM)
    if _gone(find, grace_s):
        return []
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        _stop(find)
        _signal(find(), signal.SIGKILL)
        if _gone(find, 0.5):
            return []
    left = find()
    for process in left:
        logger.error("process %s cannot be ended: it is `%s`", process.pid, _status(process))
    return left


def of_job(job_id: str) -> list[psutil.Process]:
    """All that have inherited the job's id, and that this process may look at."""
    mark = f"{JOB_VARIABLE}={job_id}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, psutil.NoSuchProcess):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(int(folder.name)))
    return [process for process in found if _lives(process)]


def descendants(spared: Collection[int] = ()) -> list[psutil.Process]:
    """All below this process that live, except for the `spared` children and what is below them.

    Buries the children that have ended: those that it adopted, nobody else waits for.
    """
    found = []
    for child in psutil.Process().children():
        if child.pid not in spared:
            with suppress(psutil.NoSuchProcess):
                found += [child, *child.children(recursive=True)]
    return [process for process in found if _lives(process)]


def bury(spared: Collection[int]) -> None:
    """Waits for the adopted children that have ended."""
    for child in psutil.Process().children():
        if child.pid not in spared and not _lives(child):
            with suppress(OSError):
                os.waitpid(child.pid, os.WNOHANG)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _stop(find: Find) -> None:
    """What is stopped starts no other: round by round, until there is nothing new."""
    stopped: set[int] = set()
    for _ in range(ROUNDS):
        new = [process for process in find() if process.pid not in stopped]
        if not new:
            return
        _signal(new, signal.SIGSTOP)
        stopped |= {process.pid for process in new}


def _gone(find: Find, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while find():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        # Somebody else's process: of a program that changes the user.
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(number)


def _lives(process: psutil.Process) -> bool:
    return _status(process) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)
