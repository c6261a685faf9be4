"""torchrun on this node: starts its ranks of one attempt and ends them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

from ladle_contracts.processes import end_with_parent
from ladle_worker.confinement.plan import FILES, NETWORK, Plan
from ladle_worker.family import JOB_VARIABLE, WHERE_SIGNAL
from ladle_worker.gang import Gang
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.environment import LOOPBACK_ONLY, rank_environment
from ladle_worker.tree import Meanwhile, Running, bury, children, descendants, end_all, marked, nothing

logger = logging.getLogger(__name__)

TORCHRUN_MODULE = "ladle_worker.torchrun"
WAIT_S = 5.0
WHERE_S = 0.5
"""How long ranks get to write where they are."""

ALONE = ("--standalone", "--local-addr=127.0.0.1")
"""The address is given because the host's name may have one that a network of its own does not have."""


class Ranks:
    """torchrun with its ranks, confined, as children of this process that never outlive it."""

    def __init__(
        self,
        folder: AttemptFolder,
        mark: str,
        num_ranks: int,
        module: str,
        plan: Plan,
        stdin: int,
        gang: Gang | None = None,
    ) -> None:
        """Ends what lives of earlier attempts first. Raises OSError where that cannot be ended.

        `mark` is the job's and this node's: the processes carry it. `gang` is for a job of several nodes.
        """
        self._mark = mark
        self._module = module
        self._end_earlier()
        plan.save(folder.plan)
        self._spared = children()
        self._log = folder.log.open("ab")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", TORCHRUN_MODULE, str(folder.plan)),
                *(ALONE if gang is None else gang.torchrun_arguments),
                f"--nproc-per-node={num_ranks}",
                # Without it torchrun leaves a folder in the temporary folder after every job.
                *("--max-restarts=0", f"--log-dir={folder.path / 'torchrun'}"),
                *("--no-python", sys.executable, "-u", "-m", module, str(folder.path)),
            ],
            stdin=stdin,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=folder.path,
            env=rank_environment(num_ranks, gang) | self._own_variables(folder, plan),
            # A group of its own, which can be signalled as a whole.
            start_new_session=True,
            # It is safe here, because the prefork child has one thread and the function only makes a system call.
            preexec_fn=end_with_parent(signal.SIGKILL),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while they run."""
        return self._process.poll()

    def tell_where_they_are(self) -> None:
        """Every rank writes to the log which lines it is at."""
        for rank in self._of_torchrun():
            with suppress(OSError):
                os.kill(rank.pid, WHERE_SIGNAL)
        # Python writes it at once; a rank that waits inside the kernel never does.
        time.sleep(WHERE_S)

    def end(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        """Ends the ranks, and returns when no process of the attempt is left, or none that can be ended.

        `meanwhile` is called again and again.
        """
        end_all(self._alive, grace_s, meanwhile)
        # At once, unless it waits inside the kernel.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        bury(self._spared)
        self._log.close()

    def _of_torchrun(self) -> list[Running]:
        """The ranks: the only ones with this module in their command, apart from torchrun."""
        commands = {process: _command(process.pid) for process in self._alive()}
        return [
            process for process, words in commands.items() if self._module in words and TORCHRUN_MODULE not in words
        ]

    def _alive(self) -> list[Running]:
        """What is below this process, and what has left it but carries the job's mark."""
        found = chain(descendants(self._spared), marked(self._mark))
        return list({process.pid: process for process in found}.values())

    def _end_earlier(self) -> None:
        earlier = marked(self._mark)
        for process in earlier:
            logger.warning("process %s of an earlier attempt of job %s still lives", process.pid, self._mark)
        if earlier and end_all(lambda: marked(self._mark), 0):
            raise TimeoutError(f"processes of an earlier attempt of job {self._mark} cannot be ended")

    def _own_variables(self, folder: AttemptFolder, plan: Plan) -> dict[str, str]:
        own = {JOB_VARIABLE: self._mark, "TMPDIR": str(folder.temporary)}
        if FILES in plan.protections and "TRITON_CACHE_DIR" not in os.environ:
            own["TRITON_CACHE_DIR"] = str(folder.temporary / "triton")
        return own | (LOOPBACK_ONLY if NETWORK in plan.protections else {})


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
