"""Namespaces: a network that has only the loopback device, and process ids of their own, which all end with the first.

An ordinary user gets them inside a user namespace of its own, where the system allows that. root needs none, and stays
root for the files.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from ladle_worker.confinement.system import mount_over, mount_processes, own_mounts, unshare
from ladle_worker.family import die_with_parent

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def enter(*, network: bool, processes: bool, hidden: Sequence[str] = ()) -> None:
    """Moves this process, which must have one thread, into new namespaces. Raises OSError.

    The process ids are those of its future children. `hidden` are sockets of the file system that nobody in the
    network namespace shall reach: network namespaces do not part them.
    """
    flags = (CLONE_NEWNET if network else 0) | (CLONE_NEWPID if processes else 0)
    hidden = [path for path in hidden if Path(path).exists()] if network else []
    flags |= CLONE_NEWNS if hidden or processes else 0
    if not flags:
        return
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        unshare(flags)
    else:
        unshare(flags | CLONE_NEWUSER)
        # The order is the kernel's rule.
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            _write(f"/proc/self/{name}", text)
    if network:
        _bring_up_loopback()
    if flags & CLONE_NEWNS:
        own_mounts()
    for path in hidden:
        mount_over("/dev/null", path)


def first_process() -> int | None:
    """Forks into the new process ids: None in the child, which is the first there and ends with its parent.

    The parent gets the child's exit status, as a shell shows it. It waits through SIGTERM, which its own parent sends
    to the child too.
    """
    # In its own namespace the child cannot see whether its parent lives: the pipe closes when it does not.
    end, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        _end_with_parent(end)
        # Libraries look themselves up there, by their own id.
        mount_processes()
        return None
    os.close(end)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def _end_with_parent(end: int) -> None:
    die_with_parent()
    poll = select.poll()
    poll.register(end, select.POLLHUP)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
        # Nobody can kill the first process of a namespace from inside.
        os._exit(1)
    os.close(end)


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name = b"lo".ljust(16, b"\0")
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, name + bytes(24))
        flags = struct.unpack_from("H", answer, 16)[0] | IFF_UP
        fcntl.ioctl(control, SIOCSIFFLAGS, name + struct.pack("H", flags) + bytes(22))


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)
