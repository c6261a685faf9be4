"""Makes a folder appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle_engine.errors import OutputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EISDIR),
)


STORAGE_FAULTS = (
    *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.ENOTCONN),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENFILE),
)
"""Of disks and network file systems. A missing or forbidden file is not one: it stays so."""

LOST = (errno.ENOENT, *STORAGE_FAULTS)
"""Where a folder was a moment ago: its disk has failed, or came loose."""


class LostFolder(OSError):
    """The disk of a folder that is written to has failed or vanished. It may come back."""


def refuse_existing(output: Path, *, may_be_empty: bool = False) -> None:
    """Raises `OutputError`: output-exists, or results-unwritable where it cannot be made."""
    if may_be_empty and _is_empty_folder(output):
        return
    if os.path.lexists(output):
        raise OutputError(
            "output-exists", f"`output=` must be a new folder, but `{output}` exists. Choose another name."
        )
    parent = next(parent for parent in output.absolute().parents if os.path.lexists(parent))
    if not parent.is_dir():
        raise _unwritable(output, f"`{parent}` is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _unwritable(output, f"`{parent}` does not let you write into it")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _unwritable(folder: Path, why: str, argument: str = "output") -> OutputError:
    return OutputError(
        "results-unwritable", f"`{argument}=` must be a folder that can be made, but is `{folder}`: {why}."
    )


@contextmanager
def fresh_folder(folder: Path, *, may_be_empty: bool = False) -> Iterator[Path]:
    """Makes `folder`, or takes it as it is if it is empty and may be; removes it again when the block fails.

    Raises as `naming_disk_faults`.
    """
    refuse_existing(folder, may_be_empty=may_be_empty)
    try:
        with naming_disk_faults("output", folder, shown=folder.parent, reads_elsewhere=True):
            make_folder(folder, "output", may_exist=may_be_empty)
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def make_folder(folder: Path, argument: str, *, may_exist: bool = False) -> None:
    """With its parents. Raises `OutputError` (results-unwritable) that names the argument."""
    try:
        folder.mkdir(parents=True, exist_ok=may_exist)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise _unwritable(folder, error.strerror or str(error), argument) from error


@contextmanager
def naming_disk_faults(
    argument: str, folder: Path, *, shown: Path | None = None, reads_elsewhere: bool = False
) -> Iterator[None]:
    """Raises `OutputError` (disk-full, results-unwritable) where writing to `folder` fails, or `LostFolder`.

    If the block `reads_elsewhere`, only errors that name a file of `folder`, or that reading never has, count.
    """
    shown = shown or folder
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        is_own = not reads_elsewhere or _is_below(error.filename, folder)
        if error.errno in FULL_DISK:
            raise OutputError(
                "disk-full", f"`{argument}` must fit on its disk, but writing to `{shown}` failed: {why}."
            ) from error
        if is_own and error.errno in LOST:
            raise LostFolder(
                error.errno, f"`{argument}` must stay where it is, but writing to `{shown}` failed: {why}"
            ) from error
        if error.errno == errno.EROFS or (is_own and error.errno in UNWRITABLE):
            raise _unwritable(shown, why, argument) from error
        raise


def _is_below(name: str | bytes | None, folder: Path) -> bool:
    return isinstance(name, (str, bytes)) and Path(os.fsdecode(name)).is_relative_to(folder)


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output`, renamed to it when the block succeeds.

    Raises `OutputError` when `output` exists, before the block and again at the rename, which refuses to replace.
    """
    refuse_existing(output)
    staging = output.parent / f".{output.name}-{uuid.uuid4().hex[:8]}.tmp"
    with fresh_folder(staging):
        yield staging
        sync_folder(staging)
        try:
            staging.rename(output)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                refuse_existing(output)
            elif error.errno in UNWRITABLE:
                raise _unwritable(output, error.strerror or str(error)) from error
            else:
                raise
        sync_folder(output.parent)


def sync_folder(folder: Path) -> None:
    """Makes a folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """A small file is there with all of its content, or as it was before."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
