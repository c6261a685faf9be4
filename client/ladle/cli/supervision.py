"""Parts of a stack that end by themselves are started again: one killed process must not end what the others do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from subprocess import Popen
from typing import Protocol

from ladle._errors import LadleError

MOST_ENDS = 5
WINDOW_S = 300.0
"""A part that ends more often than `MOST_ENDS` times within this time is given up."""
FIRST_PAUSE_S = 1.0
LOOK_S = 0.25


class Supervised(Protocol):
    """What is looked after: `LocalStack`."""

    @property
    def processes(self) -> Mapping[str, Popen[bytes]]: ...

    def start_again(self, name: str) -> None: ...

    def why_ended(self, name: str) -> LadleError: ...


class Restarts:
    """When each part is started again: after a pause that doubles, and only so often."""

    def __init__(
        self, stack: Supervised, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stack = stack
        self._say = say
        self._clock = clock
        self._ends: dict[str, list[float]] = {}
        self._due: dict[str, float] = {}

    def look(self) -> None:
        """Starts again what has ended and is due. Raises the stack's error when a part ends too often."""
        for name, process in list(self._stack.processes.items()):
            status = process.poll()
            if status is None:
                continue
            if name not in self._due:
                self._plan(name, status)
            elif self._clock() >= self._due[name]:
                del self._due[name]
                self._stack.start_again(name)
                self._say(f"The {name} runs again (pid {self._stack.processes[name].pid}).")

    def _plan(self, name: str, status: int) -> None:
        now = self._clock()
        ends = [moment for moment in self._ends.get(name, []) if now - moment < WINDOW_S] + [now]
        self._ends[name] = ends
        if len(ends) > MOST_ENDS:
            raise self._stack.why_ended(name)
        pause_s = FIRST_PAUSE_S * 2 ** (len(ends) - 1)
        self._due[name] = now + pause_s
        self._say(f"The {name} {ended(status)}. It is started again in {pause_s:.0f} s.")


class Supervisor:
    """Looks after a stack in a thread until `rest`.

    The thread must live as long as the parts: the kernel ends a child together with the thread that started it.
    """

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts
        self._looking = threading.Lock()
        self._is_resting = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ladle-supervisor", daemon=True)
        self.failure: LadleError | None = None
        """Why a part was given up. Then this process gets SIGTERM, so that whatever it waits for ends."""

    def start(self) -> None:
        self._thread.start()

    def rest(self) -> None:
        """Starts nothing any more."""
        with self._looking:
            self._is_resting = True

    def close(self) -> None:
        """After the parts have ended."""
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(LOOK_S):
            with self._looking:
                if not self._is_resting:
                    self._look()

    def _look(self) -> None:
        try:
            self._restarts.look()
        except (LadleError, OSError) as error:
            self.failure = error if isinstance(error, LadleError) else LadleError(f"A part cannot start: {error}.")
            self._is_resting = True
            os.kill(os.getpid(), signal.SIGTERM)


def ended(status: int) -> str:
    """`ended with status 1`, `was ended by SIGKILL`"""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
