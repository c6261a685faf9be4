"""Calls of the kernel that Python's library does not have."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

LIBC = ctypes.CDLL(None, use_errno=True)

CAPABILITY_VERSION = 0x20080522
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38


def prctl(option: int, value: int = 0) -> None:
    """Raises OSError."""
    if LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise _error(f"prctl {option}")


def keep_capabilities(kept: Collection[int]) -> None:
    """Of those that this process has, it keeps these. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable ones; those below 32, then the others.
    sets = (ctypes.c_uint32 * 6)()
    if LIBC.capget(header, sets) != 0:
        raise _error("capget")
    for index, value in enumerate(sets):
        mask = sum(1 << (number % 32) for number in kept if number // 32 == index // 3)
        sets[index] = value & mask if index % 3 < 2 else 0
    if LIBC.capset(header, sets) != 0:
        raise _error("capset")


def system_call(number: int, *arguments: object) -> int:
    """By its number, for what the C library has no function for. Raises OSError."""
    result: int = LIBC.syscall(number, *arguments)
    if result < 0:
        raise _error(f"system call {number}")
    return result


def unshare(flags: int) -> None:
    """Raises OSError."""
    if LIBC.unshare(flags) != 0:
        raise _error("unshare")


def mount_over(source: str, target: str) -> None:
    """Shows `source` in the place of `target`, in this mount namespace. Raises OSError."""
    _mount(source, target, MS_BIND)


def mount_processes() -> None:
    """Shows this process' own namespace of process ids in `/proc`, in this mount namespace. Raises OSError."""
    _mount("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "proc")


def own_mounts() -> None:
    """Nobody else sees what this mount namespace mounts, but what others mount is seen here. Raises OSError."""
    _mount("none", "/", MS_REC | MS_SLAVE)


MS_NOSUID, MS_NODEV, MS_NOEXEC = 1 << 1, 1 << 2, 1 << 3
MS_BIND, MS_REC, MS_SLAVE = 1 << 12, 1 << 14, 1 << 19


def _mount(source: str, target: str, flags: int, kind: str = "none") -> None:
    arguments = (os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), None)
    if LIBC.mount(*arguments) != 0:
        raise _error(f"mount on {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
