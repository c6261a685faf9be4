"""The processes of an attempt on this machine: children of this process that never outlive it."""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Protocol

from ladle_contracts.processes import end_with_parent
from ladle_worker.family import JOB_VARIABLE
from ladle_worker.last_words import LastWords
from ladle_worker.launch.launcher import Launch, Status
from ladle_worker.memory_kills import count_kills
from ladle_worker.torchrun import KILLED_STATUSES
from ladle_worker.tree import Meanwhile, Running, bury, children, descendants, end_all, marked, nothing

logger = logging.getLogger(__name__)

WAIT_S = 5.0


class Started(Protocol):
    """A process, as `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int: ...


Start = Callable[[Sequence[str], Mapping[str, str], Path, int, int], Started]
"""Command, environment, working folder, and the descriptors for stdin and for the output."""


class Children:
    """One command, and all that comes of it."""

    def __init__(
        self, launch: Launch, command: Sequence[str], environment: Mapping[str, str], start: Start | None = None
    ) -> None:
        """Ends what lives of earlier attempts first. Raises OSError where that cannot be ended."""
        self._mark = launch.mark
        self._end_earlier()
        others = children()
        self._kills = count_kills()
        self._status = Status()
        self._last_words = LastWords()
        self._log = launch.folder.log.open("ab")
        variables = {JOB_VARIABLE: launch.mark, "TMPDIR": str(launch.folder.temporary)}
        self._process = (start or start_process)(
            command, {**environment, **variables}, launch.folder.path, self._last_words.stdin(), self._log.fileno()
        )
        # It may have been there before, as a launcher that waited.
        self._spared = others - {self._process.pid}

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> Status:
        code = self._process.poll()
        if code is not None and not self._status.is_over:
            killed = code in KILLED_STATUSES and count_kills() > self._kills
            # Words can be read once.
            self._status = Status(is_over=True, code=code, said=self._last_words.read(), out_of_memory=killed)
        return self._status

    def alive(self) -> list[Running]:
        """What is below this process, and what has left it but carries the job's mark."""
        found = chain(descendants(self._spared), marked(self._mark))
        return list({process.pid: process for process in found}.values())

    def end(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        """Returns when no process of the attempt is left, or none that can be ended. `meanwhile` is called again and
        again."""
        end_all(self.alive, grace_s, meanwhile)
        # At once, unless it waits inside the kernel.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        bury(self._spared)

    def close(self) -> None:
        self._log.close()
        self._last_words.close()

    def _end_earlier(self) -> None:
        earlier = marked(self._mark)
        for process in earlier:
            logger.warning("process %s of an earlier attempt of job %s still lives", process.pid, self._mark)
        if earlier and end_all(lambda: marked(self._mark), 0):
            raise TimeoutError(f"processes of an earlier attempt of job {self._mark} cannot be ended")


class OnThisMachine:
    """What the launchers of this machine have in common. They set `_children` when they start."""

    _children: Children | None = None

    @property
    def pid(self) -> int:
        assert self._children is not None, "it was started"
        return self._children.pid

    def status(self) -> Status:
        assert self._children is not None, "it was started"
        return self._children.status()

    def cancel(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        if self._children is not None:
            self._children.end(grace_s, meanwhile)

    def forget(self) -> None:
        if self._children is not None:
            self._children.close()


def start_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: int, output: int | None
) -> subprocess.Popen[bytes]:
    """A child that ends with this process, in a group of its own, which can be signalled as a whole.

    Without `output` it writes where this process writes.
    """
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=dict(environment),
        start_new_session=True,
        # It is safe here, because the prefork child has one thread and the function only makes a system call.
        preexec_fn=end_with_parent(signal.SIGKILL),
    )
