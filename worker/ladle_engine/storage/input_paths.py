"""What stands at the paths of a job: questions, listings and small reads, all inside the job's boundary."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ladle_engine.storage.boundary import open_inside, status
from ladle_engine.storage.far.presence import want
from ladle_engine.storage.json_text import MAX_BYTES, parse_json

MAX_NAME_BYTES = 255
"""Linux's own limit."""

NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Entry(NamedTuple):
    """Something in a folder. A link is neither a folder nor a regular file here."""

    name: str
    is_link: bool
    is_folder: bool
    is_regular: bool


def is_folder(path: Path) -> bool:
    """Also for a link to one. Raises `OSError` where that cannot be told, and `EngineError` outside of the boundary."""
    return _is(stat.S_ISDIR, path)


def is_file(path: Path) -> bool:
    """The same for a regular file."""
    return _is(stat.S_ISREG, path)


def is_link(path: Path) -> bool:
    return path.is_symlink()


def is_there(path: Path) -> bool:
    """Also for a link to nothing."""
    return os.path.lexists(path)


def is_plain_name(name: str) -> bool:
    """Whether a file in a folder may have this name, and no other folder is meant."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    return 1 <= length <= MAX_NAME_BYTES and name not in (".", "..") and "/" not in name and "\0" not in name


def same_place(one: Path, other: Path) -> bool:
    """Whether both are there, and are the same file or folder."""
    try:
        return os.path.samestat(status(one), status(other))
    except OSError:
        return False


def real_path(path: Path) -> Path:
    """Without links, as far as they lead somewhere. They may change right after: a hint for messages and rules."""
    try:
        return Path(os.path.realpath(path))
    except RecursionError:
        # So long a chain of links that the kernel does not follow it either.
        return path.absolute()


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is inside a folder once all links are followed. Nothing outside is opened; see `real_path`."""
    return real_path(path).is_relative_to(real_path(folder))


def entries_of(folder: Path, most: int | None = None) -> list[Entry]:
    """In order of their names; any `most` of them. Raises `OSError`."""
    with _listing(folder) as (_, entries):
        return sorted(
            Entry(each.name, each.is_symlink(), each.is_dir(follow_symlinks=False), each.is_file(follow_symlinks=False))
            for each in islice(entries, most)
        )


def statuses_in(folder: Path) -> dict[str, os.stat_result]:
    """Of each entry by its name, in order; of links themselves. Raises `OSError`."""
    found: dict[str, os.stat_result] = {}
    with _listing(folder) as (descriptor, entries):
        for name in sorted(each.name for each in entries):
            # What was removed just now is not there.
            with suppress(FileNotFoundError):
                found[name] = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    return found


@contextmanager
def _listing(folder: Path) -> Iterator[tuple[int, Iterator[os.DirEntry[str]]]]:
    """The folder's descriptor, and what is in it."""
    descriptor = open_inside(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            yield descriptor, entries
    except OSError as error:
        # Otherwise the number of the descriptor.
        error.filename = os.fspath(folder)
        raise
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> int:
    """The descriptor of a regular file, to read from. Raises `OSError`, for anything else too, and never waits."""
    descriptor = _open_regular(path)
    try:
        want(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_regular(path: Path) -> int:
    descriptor = open_inside(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return descriptor


def open_binary(path: Path) -> BinaryIO:
    """The same as a file object."""
    return os.fdopen(open_regular(path), "rb")


def beginning_of(path: Path, length: int) -> bytes:
    """The first bytes of a file, or fewer where it has no more. Raises as `open_regular`."""
    with os.fdopen(_open_regular(path), "rb") as file:
        want(path, 0, length)
        return file.read(length)


def read_bytes(path: Path, most: int) -> bytes:
    """All of a small file; the first `most` bytes and one more of one that is not. Raises as `open_binary`."""
    with open_binary(path) as file:
        # As much memory as is asked for is taken, whatever the file has.
        return file.read(min(os.fstat(file.fileno()).st_size, most) + 1)


def read_json(path: Path) -> Any:
    """Raises as `open_binary` and `parse_json`."""
    return parse_json(read_bytes(path, MAX_BYTES))


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    try:
        return kind(status(path).st_mode)
    except ValueError:
        # A null byte in it.
        return False
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        return False
