"""The file of a table: opened inside the job's boundary, and read by position."""

from __future__ import annotations

import io
from pathlib import Path

from ladle_engine.errors import CheckpointError, DataError
from ladle_engine.storage.input_file import InputFile

MAX_PIECE_BYTES = 1 << 30
"""What a library may ask for at once. A damaged file may say that it has more."""
HEAD_BYTES = 4096
OTHER_KINDS = (
    (b"version https://git-lfs", "the pointer that Git LFS leaves in the place of a file (`git lfs pull` fetches it)"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an arrow file"),
    (b"\x1f\x8b", "packed by gzip (`gunzip` unpacks it)"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd (`unzstd` unpacks it)"),
    (b"BZh", "packed by bzip2 (`bunzip2` unpacks it)"),
    (b"\xfd7zXZ", "packed by xz (`unxz` unpacks it)"),
    (b"PK\x03\x04", "a zip archive, as .xlsx and .npz files are"),
    (b"\xd0\xcf\x11\xe0", "a file of old Excel"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    *((bytes((0x80, protocol)), "a pickle, which is not read because it could run code") for protocol in range(2, 6)),
)
WEB_PAGES = (b"<!DOCTYPE", b"<!doctype", b"<html")
"""How other files begin, which lie under a table's name."""


class Source:
    """One regular file that stays open. Several threads may read."""

    def __init__(self, path: Path) -> None:
        """Raises `DataError` where it cannot be opened, and `EngineError` outside of the boundary."""
        try:
            self._file = InputFile(path)
        except CheckpointError as error:
            raise DataError("invalid-data", f"A data set must be readable, but: {error.message}") from error
        self.path = path
        self.size = self._file.size

    def read(self, offset: int, length: int) -> bytes:
        """What there is of so many bytes. Raises `EngineError` (inputs-changed) where the file has become shorter."""
        if not 0 <= offset < self.size:
            # Where a damaged file says that something lies.
            return b""
        return self._file.read(offset, max(min(length, self.size - offset), 0))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class FileView(io.RawIOBase):
    """A source as a file object, for libraries; one thread at a time."""

    def __init__(self, source: Source, most_bytes: int = MAX_PIECE_BYTES) -> None:
        super().__init__()
        self._source = source
        self._most_bytes = most_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise ValueError("it points to before the file's beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        rest = max(self._source.size - self._position, 0)
        length = rest if size is None or size < 0 else min(size, rest)
        if length > self._most_bytes:
            raise ValueError(f"it has a part of {length:,} bytes, of {self._most_bytes:,} at most")
        content = self._source.read(self._position, length)
        self._position += len(content)
        return content


def refuse_other_kinds(source: Source, kind: str, beginning: bytes = b"", *, markup: bool = False) -> None:
    """Raises `DataError` where a file is empty, or is of another kind by how it begins.

    `kind` is what it should be, and how such a file begins; `markup` says that it may be any text.
    """
    head = source.read(0, HEAD_BYTES)
    if not head:
        raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` is an empty file.")
    if beginning and head.startswith(beginning):
        return
    found = next((words for magic, words in OTHER_KINDS if head.startswith(magic)), None)
    if found is None and not markup and head.lstrip().startswith(WEB_PAGES):
        found = "a web page"
    if found is not None:
        raise DataError("invalid-data", f"`{source.path}` must be {kind}, but is {found}.")
