"""Tables of text files: an index of blocks of rows, made in one pass; a block is read and parsed when asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.lines import Block, KeptBlocks, RowIndex
from ladle_engine.tasks.tables.source import Source


class StoredRow(NamedTuple):
    line: int
    """Where it begins, counted from 1."""
    content: Any
    """In the format's own form."""


class RowFormat(Protocol):
    """What a format knows about its rows."""

    columns: Mapping[str, str]

    def split(self, block: Block) -> list[StoredRow]:
        """The rows of a block, in order."""
        ...

    def values(self, row: StoredRow) -> Mapping[str, Any]:
        """By column; what is not there is absent."""
        ...


class RowFile:
    """A table of one text file."""

    def __init__(self, source: Source, index: RowIndex, rows: RowFormat, remarks: Sequence[str] = ()) -> None:
        """Raises `DataError` (empty-data) where there are no rows."""
        if index.num_rows == 0:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds none.")
        self.remarks = remarks
        self.class_names: Mapping[str, Sequence[str]] = {}
        self._source = source
        self._index = index
        self._format = rows
        self._kept: KeptBlocks[list[StoredRow]] = KeptBlocks()
        self._lock = threading.Lock()

    @property
    def columns(self) -> Mapping[str, str]:
        return self._format.columns

    def __len__(self) -> int:
        return self._index.num_rows

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        # In order of the file, so that each block is read once.
        for index in sorted(set(indices)):
            values = self._format.values(self._stored(index))
            found[index] = {column: values.get(column) for column in columns}
        return [dict(found[index]) for index in indices]

    def place(self, index: int) -> str:
        return f"`{self._source.path.name}`, line {self._stored(index).line}"

    def _stored(self, index: int) -> StoredRow:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = self._index.block_of(index)
        with self._lock:
            block = self._kept.get(number)
            if block is None:
                read = self._index.read(number)
                block = self._kept.put(number, self._format.split(read), len(read.content))
        return block[index - self._index.first_row(number)]
