"""Files that are read: opened once, by position, and never through a memory map.

A file that shrinks under a memory map ends the process with SIGBUS; here it is a short read, which is an error that
names the file. Opening does not block, so a pipe among the files cannot hold up a job.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.progress import pulse
from ladle_engine.storage.boundary import WholeFileSystem, open_inside
from ladle_engine.storage.far.presence import parts_of, want

NOT_REGULAR = "must be a regular file, but is a pipe, a socket, a device or a folder"

MAX_READ_BYTES = 1 << 30
"""What one call may ask for; Linux gives at most 2 GiB."""


class Identity(NamedTuple):
    """Which file stands at a path, and when it was changed. Nobody but the system sets `changed_ns`."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Counts:
    """How many bytes were asked for and written, in all and for inputs by path, and how often they were opened.

    What the page cache gave counts too: nobody can tell from here.
    """

    def __init__(self) -> None:
        self.opens: Counter[Path] = Counter()
        self.bytes: Counter[Path] = Counter()
        self.all_read = self.all_written = 0
        """Of results too, since the process began."""
        self._lock = threading.Lock()

    def opened(self, path: Path) -> None:
        with self._lock:
            self.opens[path] += 1

    def read(self, path: Path, num_bytes: int) -> None:
        with self._lock:
            self.bytes[path] += num_bytes
            self.all_read += num_bytes

    def wrote(self, num_bytes: int) -> None:
        """Weights, side files and states; not the few kilobytes of a report."""
        with self._lock:
            self.all_written += num_bytes

    def clear(self) -> None:
        """What is known by path; for tests."""
        with self._lock:
            self.opens.clear()
            self.bytes.clear()


COUNTS = Counts()
"""Of this process."""


class BytesSource(Protocol):
    """What gives bytes by position: a file, or one whose digest is made on the way."""

    @property
    def path(self) -> Path: ...

    @property
    def identity(self) -> Identity: ...

    @property
    def size(self) -> int: ...

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills all of `buffer`. Raises `EngineError` (inputs-changed) where the file ends before that."""
        ...

    def read_gap_into(self, buffer: memoryview, offset: int) -> None:
        """The same for what only a digest is made of."""
        ...


class ReadableFile(BytesSource, Protocol):
    """An input file, or a part of one."""

    def read(self, offset: int, length: int) -> bytes: ...


class InputFile:
    """One regular file, open for reading. Several threads may read.

    Raises `CheckpointError` (unreadable-input) for what is no regular file, or cannot be opened or read.
    """

    def __init__(self, path: Path, *, is_ours: bool = False) -> None:
        """`is_ours` is a file of a result, which lies outside of the boundary of what a job may read."""
        self.path = path
        self._is_ours = is_ours
        self._descriptor = _open(path, is_ours)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise unreadable(path, NOT_REGULAR)
        except BaseException:
            self.close()
            raise
        self.identity = Identity.of(status)
        self.size = self.identity.size
        COUNTS.opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills all of `buffer`. Raises `EngineError` (inputs-changed) where the file ends before that."""
        COUNTS.read(self.path, len(buffer))
        if not self._is_ours:
            want(self.path, offset, offset + len(buffer))
        while len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[:MAX_READ_BYTES]], offset)
            except OSError as error:
                raise unreadable(self.path, f"cannot be read: {error.strerror}") from error
            if count == 0:
                raise changed(
                    self.path, f"was {self.size:,} bytes long and has become shorter ({self._length_now():,} bytes)"
                )
            buffer, offset = buffer[count:], offset + count
            pulse()

    def read_gap_into(self, buffer: memoryview, offset: int) -> None:
        """The same for bytes that only a digest is made of: those of a far file that nobody needs are zeros."""
        parts = parts_of(self.path)
        if parts is None:
            self.read_into(buffer, offset)
            return
        buffer[:] = bytes(len(buffer))
        for start, stop in parts:
            start, stop = max(start, offset), min(stop, offset + len(buffer))
            if start < stop:
                self.read_into(buffer[start - offset : stop - offset], start)

    def read(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self.read_into(memoryview(content), offset)
        return bytes(content)

    def look_again(self) -> None:
        """Once bytes of a far file have come: that changed it."""
        self.identity = Identity.of(os.fstat(self._descriptor))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _length_now(self) -> int:
        return os.fstat(self._descriptor).st_size


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, to read into."""
    return tensor.view(-1).view(torch.uint8).numpy().data.cast("B")


def changed(path: Path | str, how: str) -> EngineError:
    """What a job says that judged other bytes than there are now."""
    return EngineError(
        "inputs-changed",
        f"Every file of a job must stay as it is until the job has ended, but `{path}` {how}. There is no result. Run "
        f"the job again.",
    )


def unreadable(path: Path, how: str) -> CheckpointError:
    return CheckpointError("unreadable-input", f"The file `{path}` {how}.")


def _open(path: Path, is_ours: bool) -> int:
    try:
        return WholeFileSystem().open(path, os.O_RDONLY) if is_ours else open_inside(path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise unreadable(path, NOT_REGULAR) from error
        raise unreadable(path, f"cannot be opened: {error.strerror}") from error
