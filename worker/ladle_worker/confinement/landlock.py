"""Landlock: a process gives up, for itself and for all that it starts, what it does not list.

Source: https://docs.kernel.org/userspace-api/landlock.html. Kernels from 5.13 have it, if it is switched on. It needs
no privileges, only `no_new_privs`.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ladle_worker.confinement.system import system_call

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION = 1
PATH_BENEATH, NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 10, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
OF_FIRST_VERSION = (1 << 13) - 1
CONNECT_TCP = 1 << 1
ABSTRACT_SOCKETS, SIGNALS = 1 << 0, 1 << 1

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (OF_FIRST_VERSION | REFER | TRUNCATE) & ~(MAKE_CHAR | MAKE_BLOCK)
DEVICE = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What a rule may grant on a path that is no folder."""

HAS_PORTS, HAS_SCOPES = 4, 6
"""The versions that brought rules for TCP ports, and the scopes of signals and abstract sockets."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """All that is left after `restrict`. A path that is not there is left out."""

    read: Sequence[str]
    write: Sequence[str]
    """Also to read."""
    devices: Sequence[str]
    ports: Collection[int] | None = None
    """TCP connections to these ports only; None for any."""


def version() -> int:
    """Of the kernel's Landlock. 0 if there is none."""
    try:
        return system_call(CREATE_RULESET, None, 0, GET_VERSION)
    except OSError:
        return 0


def restrict(allowed: Allowed) -> None:
    """Binds this thread and what it starts, for good. Needs `no_new_privs`. Raises OSError."""
    known = version()
    handled = _handled(known)
    ports = allowed.ports is not None and known >= HAS_PORTS
    scopes = ABSTRACT_SOCKETS | SIGNALS if known >= HAS_SCOPES else 0
    attributes = (ctypes.c_uint64 * 3)(handled, CONNECT_TCP if ports else 0, scopes)
    # An older kernel refuses a structure that is longer than its own.
    size = 24 if known >= HAS_SCOPES else 16 if known >= HAS_PORTS else 8
    ruleset = system_call(CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        for paths, rights in ((allowed.read, READ), (allowed.write, WRITE), (allowed.devices, DEVICE)):
            for path in paths:
                _allow_path(ruleset, path, rights & handled)
        if ports:
            _allow_ports(ruleset, allowed.ports or ())
        system_call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _handled(known: int) -> int:
    """All rights to files that this version can refuse."""
    rights = OF_FIRST_VERSION
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        rights |= right if known >= since else 0
    return rights


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= OF_FILES
        rule = _PathBeneath(rights, descriptor)
        system_call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def _allow_ports(ruleset: int, ports: Collection[int]) -> None:
    rule = (ctypes.c_uint64 * 2)(CONNECT_TCP, 0)
    for port in ports:
        rule[1] = port
        system_call(ADD_RULE, ruleset, NET_PORT, ctypes.byref(rule), 0)
