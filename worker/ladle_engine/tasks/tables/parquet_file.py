"""Parquet: decoded in windows of rows, of the columns that are asked for, and kept while there is room."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError, EngineError
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.tables.arrow_values import (
    class_names_of,
    has_dictionary,
    kinds_of,
    pyarrow,
    refuse_absurd,
    rows_of,
    translated,
)
from ladle_engine.tasks.tables.kept import KEPT_BYTES, Kept
from ladle_engine.tasks.tables.source import FileView, Source, refuse_other_kinds
from ladle_engine.tasks.tables.spilled import SpilledGroup, room_bytes

KIND = "a parquet file"
MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"
WINDOW_BYTES = 2 << 20
"""Decoded at once, by the file's own account."""
MAX_WINDOW_ROWS = 1 << 16
MAX_EXPANDED_BYTES = 1 << 30
"""Of a window, if each of its values were as long as its dictionary is."""
LARGE_BYTES = KEPT_BYTES // 2
"""Of a row group, of which little else could be kept."""
READ_BYTES = 1 << 18
"""Of a column, at once."""
MAX_RATIO = 1_000
"""How many times as large as in the file a column may become, if it is not small."""
SMALL_BYTES = 256 << 20


class ParquetFile:
    """A table of one parquet file."""

    def __init__(self, source: Source, limit: int | None, kept: Kept) -> None:
        self._source = source
        self._file = require("pyarrow.parquet", "text").ParquetFile(
            FileView(source), pre_buffer=False, buffer_size=READ_BYTES
        )
        schema = self._file.schema_arrow
        self.columns = kinds_of(schema, source.path)
        self.class_names = class_names_of(schema)
        self.remarks: Sequence[str] = ()
        self._first_rows = _first_rows(self._file.metadata, source)
        self._num_rows = min(self._first_rows[-1], limit or self._first_rows[-1])
        if self._num_rows == 0:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds none.")
        self._kept = kept

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        names = tuple(columns)
        with translated(self._source.path, KIND):
            return rows_of(self, indices, columns, lambda index: self._window(index, names))

    def place(self, index: int) -> str:
        return f"`{self._source.path.name}`, row {index} (from 0)"

    def _window(self, index: int, columns: tuple[str, ...]) -> tuple[int, Any]:
        """The decoded rows around one, and the first one's index."""
        number = bisect_right(self._first_rows, index) - 1
        first = int(self._first_rows[number])
        with self._kept.lock:
            group = self._row_group(number, columns)
            window = (index - first) // group.window_rows
            table = self._kept.get(group.key(window), lambda: self._read(group, window))
        return first + window * group.window_rows, table

    def _row_group(self, number: int, columns: tuple[str, ...]) -> RowGroup:
        """The one that was read last, as far as it was, or a new one."""
        last = self._kept.cursor
        if not isinstance(last, RowGroup) or last.key(0) != (self._source, number, columns, 0):
            self._kept.cursor = last = RowGroup(self._file, self._source, number, columns)
        return last

    def _read(self, group: RowGroup, window: int) -> tuple[Any, int]:
        """Of a group too large to be kept, all is decoded into a file where its rows are not asked for in order."""
        spilled = self._kept.spilled
        if group.is_large and window > 0 and group.is_past(window) and group.key(0) not in spilled:
            taken = sum(each.num_bytes for each in spilled.values() if each is not None)
            try:
                spilled[group.key(0)] = SpilledGroup(group.windows(), room_bytes(taken))
            except EngineError:
                raise
            except OSError:
                # There is no room: it is decoded again and again, which takes time and nothing else.
                spilled[group.key(0)] = None
        found = spilled.get(group.key(0))
        return self._decoded(group, window) if found is None else found.read(window)

    def _decoded(self, group: RowGroup, window: int) -> tuple[Any, int]:
        """What stands before it has to be decoded too, and is kept."""
        for found, table in group.windows_to(window):
            self._kept.put(group.key(found), table, table.nbytes)
        return table, table.nbytes


class RowGroup:
    """Some columns of a row group, decoded from its beginning in windows of so many rows."""

    def __init__(self, file: Any, source: Source, number: int, columns: tuple[str, ...]) -> None:
        self._source = source
        self._number = number
        self._columns = columns
        self._file = file
        metadata = file.metadata.row_group(number)
        self._num_rows = metadata.num_rows
        chunks = [metadata.column(leaf) for leaf in range(metadata.num_columns)]
        wanted = [chunk for chunk in chunks if _is_of(chunk.path_in_schema, columns)]
        _refuse_bombs(wanted, source)
        self.window_rows = _window_rows(wanted, self._num_rows, source)
        self.is_large = sum(chunk.total_uncompressed_size for chunk in wanted) > LARGE_BYTES
        self._next = 0
        self._batches: Iterator[Any] = iter(())

    def key(self, window: int) -> tuple[Source, int, tuple[str, ...], int]:
        return self._source, self._number, self._columns, window

    def is_past(self, window: int) -> bool:
        """Whether a window is not reached by going on."""
        return window < self._next or self._next == 0

    def windows(self) -> Iterator[Any]:
        """All, from the first one on."""
        self._next = 0
        for _, table in self.windows_to(-(-self._num_rows // self.window_rows) - 1):
            yield table

    def windows_to(self, window: int) -> Iterator[tuple[int, Any]]:
        """The windows up to one, from where this stands or, if that is behind it, from the first one on."""
        if self.is_past(window):
            self._next = 0
            self._batches = self._file.iter_batches(
                batch_size=self.window_rows, row_groups=[self._number], columns=list(self._columns), use_threads=False
            )
        while self._next <= window:
            number, table = self._next, self._decode()
            self._next += 1
            yield number, table

    def _decode(self) -> Any:
        """The next window. Raises `ValueError` where the group ends before it should."""
        expected = min(self.window_rows, self._num_rows - self._next * self.window_rows)
        parts: list[Any] = []
        while sum(len(part) for part in parts) < expected:
            part = next(self._batches, None)
            if part is None:
                raise ValueError(f"row group {self._number} has fewer rows than the {self._num_rows:,} it declares")
            parts.append(part)
        table = pyarrow().Table.from_batches(parts).select(list(self._columns))
        for column in table.columns:
            if has_dictionary(column.type):
                # Numbers of a damaged file may lead out of it.
                column.validate(full=True)
        return table


def open_parquet(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> ParquetFile:
    """Raises `DataError` for a file that is cut off, damaged, encrypted or no parquet file."""
    source = Source(path)
    refuse_other_kinds(source, KIND, MAGIC)
    require("pyarrow", "text")
    if source.read(0, 4) == ENCRYPTED_MAGIC:
        raise DataError("invalid-data", f"`{path}` must be {KIND} without encryption, but is encrypted.")
    with translated(path, KIND):
        return ParquetFile(source, limit, kept or Kept())


def _first_rows(metadata: Any, source: Source) -> array[int]:
    """Of each row group, and at last the number of all. Raises `ValueError` where that is absurd."""
    counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise ValueError(f"it declares {metadata.num_rows:,} rows, but its row groups have {sum(counts):,}")
    refuse_absurd(metadata.num_rows, source.size, "rows")
    return array("q", itertools.accumulate(counts, initial=0))


def _is_of(path: str, columns: Sequence[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def _refuse_bombs(chunks: Sequence[Any], source: Source) -> None:
    """Raises `ValueError` for a column that says that it becomes absurdly large."""
    for chunk in chunks:
        size = max(chunk.total_uncompressed_size, 0)
        if size > max(SMALL_BYTES, MAX_RATIO * chunk.total_compressed_size):
            raise ValueError(
                f"its column `{chunk.path_in_schema}` declares {size:,} bytes in {chunk.total_compressed_size:,}"
            )
        refuse_absurd(chunk.num_values, source.size, f"values of `{chunk.path_in_schema}`")


def _window_rows(chunks: Sequence[Any], num_rows: int, source: Source) -> int:
    """So few that they are small by what the metadata say, and bounded if each value is as long as its dictionary."""
    size = sum(chunk.total_uncompressed_size + 8 * chunk.num_values for chunk in chunks)
    longest = sum(_dictionary_bytes(chunk, source) for chunk in chunks)
    most = min(WINDOW_BYTES * num_rows // max(size, 1), MAX_EXPANDED_BYTES // max(longest, 1), MAX_WINDOW_ROWS)
    return max(int(most), 1)


def _dictionary_bytes(chunk: Any, source: Source) -> int:
    """Unpacked, from the header of its page: in Thrift's compact form, its kind, and then both sizes."""
    if not chunk.has_dictionary_page or chunk.dictionary_page_offset is None:
        return 0
    header = source.read(chunk.dictionary_page_offset, 32)
    numbers: list[int] = []
    place = 0
    while len(numbers) < 2 and place < len(header) and header[place] == 0x15:
        number, shift, place = 0, 0, place + 1
        while place < len(header):
            number |= (header[place] & 0x7F) << shift
            shift, place = shift + 7, place + 1
            if header[place - 1] < 0x80:
                break
        numbers.append(number >> 1)
    return numbers[1] if len(numbers) == 2 else int(chunk.total_uncompressed_size)
