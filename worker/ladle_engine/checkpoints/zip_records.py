"""The records of a `.pt` file, which is a zip archive: where they are, and whether they stand there as they are."""

from __future__ import annotations

import io
import zipfile
from bisect import bisect_right
from dataclasses import dataclass

from ladle_engine.errors import EngineError
from ladle_engine.storage.input_file import InputFile

ZIP_START = b"PK\x03\x04"


class InputStream(io.RawIOBase):
    """An input file as what Python's and torch's own readers take. They read little, here and there: no buffer."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError("a position before the beginning of the file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants any buffer
        count = max(min(len(buffer), self._file.size - self._position), 0)
        self._file.read_into(memoryview(buffer).cast("B")[:count], self._position)
        self._position += count
        return count


def is_zip(file: InputFile) -> bool:
    return file.size >= len(ZIP_START) and file.read(0, len(ZIP_START)) == ZIP_START


@dataclass(frozen=True, kw_only=True)
class ZipRecords:
    """In order of their place in the file. None is compressed, and numbers are little-endian."""

    starts: tuple[int, ...]
    """Where each record's own header begins."""
    sizes: tuple[int, ...]

    def holds(self, start: int, offset: int, num_bytes: int) -> bool:
        """Whether these bytes lie in the record whose content begins at `start`."""
        number = bisect_right(self.starts, start) - 1
        return number >= 0 and start <= offset and offset + num_bytes <= start + self.sizes[number]


def records_of(file: InputFile) -> ZipRecords | None:
    """None where records do not stand as they are, or the archive's directory is damaged."""
    try:
        with zipfile.ZipFile(InputStream(file)) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            orders = {archive.read(entry) for entry in entries if entry.filename.endswith("/byteorder")}
    except (EngineError, MemoryError):
        raise
    except Exception:
        # What a damaged archive raises depends on where it is damaged: UnicodeDecodeError, struct.error and more.
        return None
    if orders - {b"little"} or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return None
    return ZipRecords(
        starts=tuple(entry.header_offset for entry in entries), sizes=tuple(entry.file_size for entry in entries)
    )
