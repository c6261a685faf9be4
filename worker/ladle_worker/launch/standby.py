"""The agent's launcher that waits for the next job with torch and the engine imported, so that no job waits for that.

There is one per agent, and a new one after each job. A job that it does not fit, or that finds none, starts a launcher
of its own: the same program, which imports when it is told what to run.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ladle_worker.family import JOB_VARIABLE
from ladle_worker.launch.children import start_process
from ladle_worker.waiting import CANNOT_WAIT, TAKEN

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-u", "-m", "ladle_worker.torchrun", "--wait")
ROOM = 4096
"""Bytes for the command that the launcher shows once it has a job."""
MARK_ROOM = 512
ANSWER_S = 30.0
"""How long a launcher may take to answer, if it is still importing. After that a new one is started."""
LATE = ("NCCL_", "GLOO_", "TORCH_NCCL_", "TORCH_FR_")
LATE_NAMES = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "TMPDIR", "TRITON_CACHE_DIR", JOB_VARIABLE}
"""Variables that nobody reads while modules are imported, or that the ranks apply themselves. All others must be the
same for the job as for the imports."""

Cold = Callable[[], subprocess.Popen[bytes]]


class Standby:
    """The launcher that waits, if one does."""

    def __init__(self) -> None:
        self._environment: Mapping[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._installed: object = None

    def turn_on(self, environment: Mapping[str, str]) -> None:
        """From now on one waits. `environment` is that of a usual job."""
        self._environment = environment
        self.renew()

    def renew(self) -> None:
        """Starts one if none waits."""
        if self._environment is None or (self._process is not None and self._process.poll() is None):
            return
        if self._process is not None and self._process.returncode == CANNOT_WAIT:
            # It has said why.
            self._environment = None
            return
        self._drop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._installed = installed()
        with theirs:
            self._process = start_process(
                (*COMMAND, " " * ROOM),
                {**self._environment, JOB_VARIABLE: "." * MARK_ROOM},
                Path("/"),
                theirs.fileno(),
                None,
            )

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: int, log: int) -> Told:
        """Lets the one that waits run the command, or starts a new process where none does, or it does not fit."""

        def cold() -> subprocess.Popen[bytes]:
            return start_process(command, environment, folder, stdin, log)

        if (reason := self._why_cold(environment)) is not None:
            if reason:
                logger.info("the job's launcher is started anew: %s", reason)
            return Told(cold(), None, cold)
        assert self._process is not None
        assert self._control is not None
        process, control = self._process, self._control
        self._process = self._control = None
        asked = {"command": list(command), "environment": dict(environment), "folder": str(folder)}
        with suppress(OSError):
            # If it has just ended, `Told` notices that it does not answer.
            socket.send_fds(control, [json.dumps(asked).encode()], [stdin, log])
        return Told(process, control, cold)

    def _why_cold(self, environment: Mapping[str, str]) -> str | None:
        """None if the one that waits will do. Empty if none should wait."""
        if self._environment is None:
            return ""
        if self._process is None or self._process.poll() is not None:
            return "none waits"
        if installed() != self._installed:
            self._drop()
            return "packages were installed or removed since the one that waits was started"
        theirs, asked = _read_by_imports(self._environment), _read_by_imports(environment)
        if theirs != asked:
            names = sorted(name for name in theirs | asked if theirs.get(name) != asked.get(name))
            return f"its environment differs in {', '.join(names)}"
        return None

    def _drop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None


class Told:
    """A launcher that has been told what to run. If it waited and does not answer, a new one takes its place."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket | None, cold: Cold) -> None:
        self._process = process
        self._control = control
        self._cold = cold
        self._until = time.monotonic() + ANSWER_S

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self._control is not None:
            self._hear(self._control)
        return self._process.poll()

    def wait(self, timeout: float) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        return self._process.wait(timeout)

    def _hear(self, control: socket.socket) -> None:
        # Before the answer is looked for: what has ended says nothing later.
        silent = self._process.poll() is not None or time.monotonic() > self._until
        try:
            taken = control.recv(len(TAKEN), socket.MSG_DONTWAIT) == TAKEN
        except BlockingIOError:
            taken = False
        except OSError:
            taken, silent = False, True
        if not taken and silent:
            logger.warning("the launcher that waited has not answered: another one is started")
            self._process.kill()
            self._process.wait()
            self._process = self._cold()
        if taken or silent:
            control.close()
            self._control = None


STANDBY = Standby()
"""This process' own. It is off until the agent turns it on."""


def _read_by_imports(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(LATE) and name not in LATE_NAMES}


def installed() -> object:
    """Changes when a package is installed or removed in any folder that Python looks into."""
    return [(path, _changed_at(path)) for path in sys.path]


def _changed_at(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None
