"""Child processes that must not outlive their parent, and processes that hold secrets."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


def end_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """For `Popen(preexec_fn=...)`: the kernel sends the child this signal when this process ends, however it ends.

    None where the kernel cannot do that, which is everywhere but on Linux.
    """
    if sys.platform != "linux":
        return None
    # Loaded here, because a forked child should do as little as it can.
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)
        # The parent may have ended before the call above: then no signal would ever come.
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def keep_secrets() -> None:
    """Other processes of this user can no longer trace this one, or read its environment and memory.

    It holds until the process starts another program. Raises OSError. Nothing happens anywhere but on Linux.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
