"""Text files of any size: their lines, and an index of blocks of rows."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.tasks.tables.source import Source, refuse_other_kinds

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
"""Of one line, and of one row."""
BLOCK_BYTES = 16 << 10
"""A block of rows, which is read at once, begins anew after so many bytes; one long row may be longer."""
UTF8_MARK = b"\xef\xbb\xbf"
WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    offset: int
    content: bytes
    """With its end: CR, LF or both."""


class Block(NamedTuple):
    content: bytes
    first_line: int
    """Counted from 1, as editors do."""


def open_lines(path: Path, kind: str, *, markup: bool = False) -> Source:
    """Raises `DataError`: empty, or no UTF-8 text by how it begins. `markup` says that it may be a web page."""
    source = Source(path)
    refuse_other_kinds(source, kind, markup=markup)
    head = source.read(0, CHUNK_BYTES)
    if head.startswith(WIDE_MARKS) or head.count(0) > len(head) // 8:
        raise DataError(
            "invalid-data",
            f"A text file must be in UTF-8, but `{path}` looks like UTF-16 or UTF-32. Convert it: iconv -f UTF-16 -t "
            f"UTF-8.",
        )
    return source


def lines_of(source: Source) -> Iterator[Line]:
    """In order, without the mark that some programs put before UTF-8. Raises `DataError` for one without an end."""
    offset = read = len(UTF8_MARK) if source.read(0, len(UTF8_MARK)) == UTF8_MARK else 0
    rest = b""
    while read < source.size:
        chunk = source.read(read, CHUNK_BYTES)
        read += len(chunk)
        pulse()
        pieces = (rest + chunk).splitlines(keepends=True)
        # It may go on in the next chunk, and so may CR with LF.
        rest = pieces.pop() if read < source.size and not pieces[-1].endswith(b"\n") else b""
        for piece in pieces:
            yield Line(offset, piece)
            offset += len(piece)
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(
                "invalid-data",
                f"A line must have at most {MAX_LINE_BYTES:,} bytes, but one of `{source.path}` has more. Is it a text "
                f"file with a row in each line?",
            )


def decoded(content: bytes, path: Path, line: int) -> str:
    """Raises `DataError` that names the line of what is not UTF-8; `line` is the first one's number."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line += len(content[: error.start].splitlines()) - (error.start > 0)
        raise DataError(
            "invalid-data",
            f"A text file must be in UTF-8, but line {line} of `{path}` has the byte 0x{content[error.start]:02x} "
            f"where that cannot be. Convert it: iconv -f WINDOWS-1252 -t UTF-8, or from whatever it is in.",
        ) from error


class RowIndex:
    """Where blocks of rows begin in a file: some 24 bytes of memory for each 16 kB."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._offsets = array("Q")
        self._first_rows = array("Q")
        self._first_lines = array("Q")
        self._end = 0
        self.num_rows = 0

    def add(self, offset: int, line: int) -> None:
        """The next row begins here."""
        if not self._offsets or offset - self._offsets[-1] >= BLOCK_BYTES:
            self._offsets.append(offset)
            self._first_rows.append(self.num_rows)
            self._first_lines.append(line)
        self.num_rows += 1

    def finish(self, end: int) -> None:
        """The last row ends here."""
        self._end = end

    def block_of(self, row: int) -> int:
        return bisect.bisect_right(self._first_rows, row) - 1

    def first_row(self, block: int) -> int:
        return self._first_rows[block]

    def read(self, block: int) -> Block:
        start = self._offsets[block]
        end = self._offsets[block + 1] if block + 1 < len(self._offsets) else self._end
        return Block(self._source.read(start, end - start), self._first_lines[block])
