"""Arrow files, of the IPC file and the stream format: batches of rows, read by position when asked for.

Never through a memory map: a file that becomes shorter would end the process.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.arrow_messages import (
    BATCH,
    DICTIONARY,
    END,
    FILE_MAGIC,
    SCHEMA,
    Message,
    is_file_format,
    messages_of,
    unpacked_bytes,
)
from ladle_engine.tasks.tables.arrow_values import class_names_of, kinds_of, pyarrow, refuse_absurd, rows_of, translated
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.source import FileView, Source, refuse_other_kinds

KIND = "an arrow file"
MAX_BATCH_BYTES = 1 << 30
"""Of one batch of rows, which is read as a whole."""


class Batches(Protocol):
    """What both formats offer. Both raise `ValueError`, and what arrow raises."""

    batches: list[Message]
    schema: Any

    def prelude(self, number: int) -> Sequence[Message]:
        """What has to be read before a batch."""
        ...

    def read(self, number: int) -> Any:
        """A table of one batch."""
        ...


class StreamBatches:
    """Of the stream format. A dictionary stands before the batches that use it, and may be replaced later."""

    def __init__(self, source: Source, limit: int | None) -> None:
        self._source = source
        self.batches: list[Message] = []
        self._preludes: list[tuple[Message, ...]] = []
        prelude: tuple[Message, ...] = ()
        for message in _up_to(limit, source):
            if message.kind == BATCH:
                self.batches.append(message)
                self._preludes.append(prelude)
            elif message.kind in (SCHEMA, DICTIONARY):
                prelude = _with(prelude, message)
        if not prelude or prelude[0].kind != SCHEMA:
            raise ValueError("it does not begin with a schema")
        self.schema = self._stream(prelude[:1]).schema

    def prelude(self, number: int) -> Sequence[Message]:
        return self._preludes[number]

    def read(self, number: int) -> Any:
        return self._stream((*self._preludes[number], self.batches[number])).read_all()

    def _stream(self, messages: Sequence[Message]) -> Any:
        """A reader of only these messages."""
        parts = [self._source.read(message.offset, message.length) for message in messages]
        return pyarrow().ipc.open_stream(pyarrow().py_buffer(b"".join([*parts, END])))


class FileBatches:
    """Of the file format, whose dictionaries hold for all batches."""

    def __init__(self, source: Source, limit: int | None) -> None:
        messages = list(_up_to(limit, source))
        self.batches = [message for message in messages if message.kind == BATCH]
        self._dictionaries = [message for message in messages if message.kind == DICTIONARY]
        self._reader = pyarrow().ipc.open_file(FileView(source))
        self.schema = self._reader.schema

    def prelude(self, number: int) -> Sequence[Message]:
        return self._dictionaries

    def read(self, number: int) -> Any:
        return pyarrow().Table.from_batches([self._reader.get_batch(number)])


class ArrowFile:
    """A table of one arrow file."""

    def __init__(self, source: Source, limit: int | None, kept: Kept) -> None:
        self._source = source
        self._batches: Batches = (FileBatches if is_file_format(source) else StreamBatches)(source, limit)
        self.columns = kinds_of(self._batches.schema, source.path)
        self.class_names = class_names_of(self._batches.schema)
        self.remarks: Sequence[str] = ()
        self._first_rows = array("q")
        self._num_rows = 0
        for message in self._batches.batches:
            refuse_absurd(message.rows, message.length, "rows")
            self._first_rows.append(self._num_rows)
            self._num_rows += message.rows
        self._num_rows = min(self._num_rows, limit or self._num_rows)
        self._kept = kept
        if self._num_rows == 0:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds none.")

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return rows_of(self, indices, lambda index: self._block(index, columns))

    def place(self, index: int) -> str:
        return f"`{self._source.path.name}`, row {index} (from 0)"

    def _block(self, index: int, columns: Sequence[str]) -> tuple[int, Any]:
        """The batch of a row, and its first row."""
        number = bisect.bisect_right(self._first_rows, index) - 1
        table = self._kept.get((self._source, number), lambda: self._read(number))
        return self._first_rows[number], table.select(list(columns))

    def _read(self, number: int) -> tuple[Any, int]:
        message = self._batches.batches[number]
        with translated(self._source.path, KIND):
            size = sum(unpacked_bytes(self._source, part) for part in (*self._batches.prelude(number), message))
            if size > MAX_BATCH_BYTES:
                raise ValueError(
                    f"its batch of row {self._first_rows[number]:,} has {size:,} bytes, of {MAX_BATCH_BYTES:,} at "
                    f"most; write it with smaller batches, such as `max_chunksize=1000` of pyarrow"
                )
            table = self._batches.read(number)
            # Offsets of strangers may lead out of the memory that was read.
            table.validate(full=True)
            if len(table) != message.rows:
                raise ValueError(f"the batch at byte {message.offset:,} has other rows than its header says")
        return table, size


def open_arrow(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> ArrowFile:
    """Raises `DataError` for a file that is cut off, damaged or no arrow file."""
    source = Source(path)
    refuse_other_kinds(source, KIND, FILE_MAGIC)
    pyarrow()
    with translated(path, KIND):
        return ArrowFile(source, limit, kept or Kept())


def _up_to(limit: int | None, source: Source) -> Iterator[Message]:
    """Messages until there are so many rows."""
    rows = 0
    for message in messages_of(source):
        yield message
        rows += message.rows if message.kind == BATCH else 0
        if limit is not None and rows >= limit:
            return


def _with(prelude: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    """Without the dictionary that the message replaces."""
    if message.dictionary is None:
        return (*prelude, message)
    return (*(each for each in prelude if each.dictionary != message.dictionary), message)
