"""Tables of text files: an index of blocks of rows, made in one pass; a block is read and parsed when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.lines import Block, RowIndex
from ladle_engine.tasks.tables.source import Source

PARSED_FACTOR = 4
"""How many times as much memory as in the file rows take, about."""


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

    def __init__(
        self, source: Source, index: RowIndex, rows: RowFormat, kept: Kept, remarks: Sequence[str] = ()
    ) -> None:
        """Raises `DataError` (empty-data) where there are no rows."""
        if index.num_rows == 0:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds none.")
        self.remarks = remarks
        self.class_names: Mapping[str, Sequence[str]] = {}
        self._source = source
        self._index = index
        self._format = rows
        self._kept = kept

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
        rows: list[StoredRow] = self._kept.get((self._source, number), lambda: self._read(number))
        return rows[index - self._index.first_row(number)]

    def _read(self, number: int) -> tuple[list[StoredRow], int]:
        block = self._index.read(number)
        return self._format.split(block), PARSED_FACTOR * len(block.content)
