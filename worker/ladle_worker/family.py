"""Processes that must not outlive their parent. Imports little: ranks begin with it."""

from __future__ import annotations

import os
import signal

from ladle_worker.confinement.system import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    prctl,
)

PARENT_VARIABLE = "TORCHRUN_PID"
"""Ranks find the process id of their parent here."""
JOB_VARIABLE = "TORCHRUN_JOB"
"""Every process of a job inherits the job's id, so that none is overlooked."""

WHERE_SIGNAL = signal.SIGUSR1
"""A rank that gets it writes to the log which lines it is at."""


def die_with_parent(expected_parent: int | None = None) -> None:
    """From now on the kernel kills this process when its parent ends, however it ends. Raises OSError.

    If the parent ended before this call, no signal comes. With `expected_parent` that case is noticed.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if expected_parent is not None and os.getppid() != expected_parent:
        os.kill(os.getpid(), signal.SIGKILL)


def parent_of_ranks() -> int | None:
    """What the launcher says about itself. None where something else has started this rank."""
    text = os.environ.get(PARENT_VARIABLE)
    return int(text) if text else None


def adopt_orphans() -> None:
    """What loses its parent below this process becomes its child, and not a stranger. Raises OSError."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
