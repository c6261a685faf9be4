"""Processes that must not outlive their parent, and the end of a whole tree of them. Linux only, as the workers are."""

from __future__ import annotations

import ctypes
import os
import signal

import psutil

from ladle_contracts.processes import PR_SET_PDEATHSIG


def die_with_parent(expected_parent: int | None = None) -> None:
    """From now on the kernel kills this process when its parent ends, however it ends.

    If the parent ended before this call, no signal comes. With `expected_parent` that case is noticed.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if expected_parent is not None and os.getppid() != expected_parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_tree(pid: int, grace_s: float) -> None:
    """Ends a process and all its descendants: SIGTERM, then SIGKILL after `grace_s`. Returns when all have ended.

    torchrun starts every rank in a session of its own, so a process group is not enough.
    """
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _signal(tree, signal.SIGTERM)
    _, alive = psutil.wait_procs(tree, timeout=grace_s)
    # Children that were started in the meantime.
    alive = [*alive, *(child for process in alive for child in _children(process))]
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=10)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
