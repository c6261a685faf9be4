"""Opens what lies below a folder that is held by its descriptor. No link is followed on the way.

Names can be exchanged for links at any time, a descriptor cannot: so what this opens lies below that folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from functools import cache

PATH_ONLY = getattr(os, "O_PATH", os.O_RDONLY)
"""Opens a place without reading from it."""
PATH_ONLY_FLAGS = PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""What may stand together with it."""
NEVER_BLOCKS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""A pipe would otherwise wait for somebody who writes, and a terminal would become ours."""

SYS_OPENAT2 = 437
WITHOUT_OPENAT2 = (
    "The kernel has no system call `openat2` (Linux 5.6), or the container does not allow it. The files of jobs are "
    "opened folder by folder instead, which is just as safe and a little slower."
)
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
"""Of `linux/openat2.h`."""


def open_beneath(folder: int, path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of what lies at the relative `path`.

    Raises `OSError`: `ELOOP` where a part of the path is a link, `EXDEV` where it leads out of the folder, `EAGAIN`
    where folders on the way are renamed meanwhile.
    """
    flags = (flags & PATH_ONLY_FLAGS) | os.O_CLOEXEC if flags & PATH_ONLY else flags | NEVER_BLOCKS
    return _openat2(folder, path, flags) if has_openat2() else _step_by_step(folder, path, flags)


@cache
def has_openat2() -> bool:
    """Whether the kernel has the system call (Linux 5.6) and lets us use it: older container runtimes do not."""
    if not sys.platform.startswith("linux"):
        return False
    top = os.open("/", PATH_ONLY | os.O_CLOEXEC)
    try:
        os.close(_openat2(top, ".", PATH_ONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        os.close(top)
    return True


class _How(ctypes.Structure):
    """`struct open_how`"""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(folder: int, path: str, flags: int) -> int:
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    how, name = _How(flags, 0, resolve), os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    while True:
        descriptor = _system_call()(SYS_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return int(descriptor)
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), path)


@cache
def _system_call() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    return function


def _step_by_step(folder: int, path: str, flags: int) -> int:
    """For systems without `openat2`: one part of the path after the other."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    here = os.open(".", PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        for part in parts[:-1]:
            below = _step(here, part, PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.close(here)
            here = below
        return _step(here, parts[-1] if parts else ".", flags)
    finally:
        os.close(here)


def _step(folder: int, name: str, flags: int) -> int:
    loop = OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    try:
        descriptor = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        # What a link is refused with depends on the other flags.
        if error.errno == errno.ENOTDIR and stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            raise loop from error
        raise
    # With `O_PATH` the link itself is opened.
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise loop
    return descriptor
