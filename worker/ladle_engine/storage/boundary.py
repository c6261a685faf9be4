"""What opens the files that a job names, and all that lies below them: the plain file system, or only a part of it.

Whoever runs jobs of others installs a boundary of its own. Nothing else in the engine opens a path of a job's; what
does is listed in `tests/unit/test_opened_files.py`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from ladle_engine.storage.descriptors import allow_more_descriptors


class Boundary(Protocol):
    def open(self, path: Path, flags: int) -> int:
        """A descriptor of a file or folder, never waiting for another process. Links are followed if they stay inside.

        Raises `OSError`, and `EngineError` (path-not-allowed) for what is outside, whether or not it exists.
        """
        ...

    def status(self, path: Path) -> os.stat_result:
        """Of what links lead to. Raises as `open`."""
        ...


class WholeFileSystem:
    """No boundary: for a caller who may read what the engine may."""

    def open(self, path: Path, flags: int) -> int:
        # A pipe would otherwise wait for somebody who writes.
        return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def status(self, path: Path) -> os.stat_result:
        return path.stat()


_installed: Boundary = WholeFileSystem()


def install(boundary: Boundary) -> Boundary:
    """For all threads of this process from now on. Returns what was installed before."""
    global _installed
    before, _installed = _installed, boundary
    return before


def open_inside(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor; see `Boundary.open`."""
    while True:
        try:
            return _installed.open(path, flags)
        except OSError as error:
            if error.errno == errno.EMFILE and allow_more_descriptors():
                continue
            if error.errno == errno.ENXIO:
                # A socket. Otherwise the number says that a device has failed.
                raise OSError(errno.EINVAL, "not a regular file", os.fspath(path)) from None
            error.filename = os.fspath(path)
            raise


def status(path: Path) -> os.stat_result:
    """Of what links lead to; see `Boundary.status`."""
    return _installed.status(path)
