"""Processes that must not outlive the check. On its own, because ladle_worker's form of it needs pydantic."""

from __future__ import annotations

import contextlib
import ctypes
import signal

import psutil

PR_SET_PDEATHSIG = 1
GRACE_S = 5.0


def die_with_parent() -> None:
    """From now on the kernel kills this process when its parent ends, however it ends. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_tree(pid: int) -> None:
    """Ends a process and all its descendants. torchrun starts every rank in a session of its own."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(tree, timeout=GRACE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_S)
