"""Arrow files, of the IPC file and the stream format: batches of rows, read by position when asked for.

Never through a memory map: a file that becomes shorter would end the process.
"""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.arrow_messages import (
    BATCH,
    DICTIONARY,
    END,
    FILE_MAGIC,
    SCHEMA,
    Message,
    messages_of,
    unpacked_bytes,
)
from ladle_engine.tasks.tables.arrow_values import class_names_of, kinds_of, pyarrow, python_rows, translated
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.source import Source, refuse_other_kinds

KIND = "an arrow file"
MAX_BATCH_BYTES = 1 << 30
"""Of one batch of rows, which is read as a whole."""


class ArrowFile:
    """A table of one arrow file."""

    def __init__(self, source: Source, limit: int | None, kept: Kept) -> None:
        self._source = source
        self._prelude: tuple[Message, ...] = ()
        """The schema and the dictionaries."""
        self._batches: list[Message] = []
        self._preludes: list[tuple[Message, ...]] = []
        """Of each batch: what stood before it."""
        self._first_rows = array("Q")
        self._num_rows = 0
        self._index(limit)
        schema = self._stream(self._prelude[:1]).schema
        self.columns = kinds_of(schema, source.path)
        self.class_names = class_names_of(schema)
        self.remarks: Sequence[str] = ()
        self._kept = kept
        if self._num_rows == 0:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds none.")

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for number, group in itertools.groupby(sorted(set(indices)), key=self._batch_of):
            wanted, first = list(group), self._first_rows[number]
            rows = self._batch(number).select(list(columns)).take([index - first for index in wanted])
            values = python_rows(rows, lambda row, wanted=wanted: self.place(wanted[row]))  # type: ignore[misc]
            found.update(zip(wanted, values, strict=True))
        return [dict(found[index]) for index in indices]

    def place(self, index: int) -> str:
        return f"`{self._source.path.name}`, row {index} (from 0)"

    def _index(self, limit: int | None) -> None:
        """Raises `ValueError` and `DataError`."""
        for message in messages_of(self._source):
            if message.kind in (SCHEMA, DICTIONARY):
                self._prelude = _with(self._prelude, message)
            elif message.kind == BATCH and message.rows:
                self._batches.append(message)
                self._preludes.append(self._prelude)
                self._first_rows.append(self._num_rows)
                self._num_rows += message.rows
            if limit is not None and self._num_rows >= limit:
                self._num_rows = limit
                break
        if not self._prelude or self._prelude[0].kind != SCHEMA:
            raise ValueError("it does not begin with a schema")

    def _batch_of(self, index: int) -> int:
        if not 0 <= index < self._num_rows:
            raise IndexError(f"row {index} of {self._num_rows}")
        return bisect.bisect_right(self._first_rows, index) - 1

    def _batch(self, number: int) -> Any:
        """A table of one batch."""
        return self._kept.get((self._source, number), lambda: self._read(number))

    def _read(self, number: int) -> tuple[Any, int]:
        message, prelude = self._batches[number], self._preludes[number]
        size = sum(unpacked_bytes(self._source, part) for part in (*prelude, message))
        if size > MAX_BATCH_BYTES:
            raise DataError(
                "invalid-data",
                f"A batch of rows must have at most {MAX_BATCH_BYTES:,} bytes, but the one of "
                f"{self.place(self._first_rows[number])} has {size:,}. Write the file with smaller batches: "
                f"`max_chunksize=1000` of pyarrow.",
            )
        with translated(self._source.path, KIND):
            table = self._stream((*prelude, message)).read_all()
            # Offsets of strangers may lead out of the memory that was read.
            table.validate(full=True)
            if len(table) != message.rows:
                raise ValueError(f"the batch at byte {message.offset:,} has other rows than its header says")
        return table, size

    def _stream(self, messages: Sequence[Message]) -> Any:
        """A reader of only these messages."""
        parts = [self._source.read(message.offset, message.length) for message in messages]
        return pyarrow().ipc.open_stream(pyarrow().py_buffer(b"".join([*parts, END])))


def _with(prelude: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    """Without the dictionary that the message replaces."""
    if message.dictionary is None:
        return (*prelude, message)
    return (*(each for each in prelude if each.dictionary != message.dictionary), message)


def open_arrow(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> ArrowFile:
    """Raises `DataError` for a file that is cut off, damaged or no arrow file."""
    source = Source(path)
    refuse_other_kinds(source, KIND, FILE_MAGIC)
    pyarrow()
    with translated(path, KIND):
        return ArrowFile(source, limit, kept or Kept())
