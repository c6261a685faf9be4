"""Arrow files, of the IPC file and the stream format: batches of rows, read by position when asked for.

Never through a memory map: a file that becomes shorter would end the process.
"""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.arrow_large import RESIDENT_BYTES, LargeBatch, SparseBody, supports
from ladle_engine.tasks.tables.arrow_messages import (
    BATCH,
    DICTIONARY,
    FILE_MAGIC,
    SCHEMA,
    Message,
    is_file_format,
    message_at,
    messages_of,
    unpacked_bytes,
)
from ladle_engine.tasks.tables.arrow_values import class_names_of, kinds_of, pyarrow, refuse_absurd, rows_of, translated
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.source import FileView, Source, refuse_other_kinds

KIND = "an arrow file"
MAX_BATCH_BYTES = 1 << 30
"""Of one batch of rows, where it has to be read as a whole."""
LARGE_BYTES = 16 << 20
"""A batch of more is read piece by piece, where that can be: one that is packed cannot."""


class Batches(Protocol):
    """What both formats offer. Both raise `ValueError`, and what arrow raises."""

    schema: Any
    offsets: array[int]
    """Where each batch begins."""
    rows: array[int]
    """How many each has."""

    def prelude(self, number: int) -> Sequence[Message]:
        """What has to be read before a batch."""
        ...

    def head(self, number: int) -> bytes | None:
        """The stream up to a batch, where there is one."""
        ...

    def read(self, number: int) -> Any:
        """A table of one batch."""
        ...


class StreamBatches:
    """Of the stream format. A dictionary stands before the batches that use it, and may be replaced later."""

    def __init__(self, source: Source, limit: int | None) -> None:
        self._source = source
        self.offsets, self.rows = array("q"), array("q")
        self._preludes: list[tuple[Message, ...]] = [()]
        self._prelude_of = array("q")
        for message in _up_to(limit, source):
            if message.kind == BATCH:
                self.offsets.append(message.offset)
                self.rows.append(message.rows)
                self._prelude_of.append(len(self._preludes) - 1)
            elif message.kind in (SCHEMA, DICTIONARY):
                self._preludes.append(_with(self._preludes[-1], message))
        if len(self._preludes) < 2 or self._preludes[1][0].kind != SCHEMA:
            raise ValueError("it does not begin with a schema")
        self.schema = _stream(self._content(self._preludes[1][:1])).schema

    def prelude(self, number: int) -> Sequence[Message]:
        return self._preludes[self._prelude_of[number]]

    def head(self, number: int) -> bytes | None:
        return self._content(self.prelude(number))

    def read(self, number: int) -> Any:
        message = message_at(self._source, self.offsets[number])
        return _stream(self._content((*self.prelude(number), message))).read_all()

    def _content(self, messages: Sequence[Message]) -> bytes:
        return b"".join(self._source.read(message.offset, message.length) for message in messages)


class FileBatches:
    """Of the file format, whose dictionaries hold for all batches."""

    def __init__(self, source: Source, limit: int | None) -> None:
        self.offsets, self.rows = array("q"), array("q")
        self._dictionaries: list[Message] = []
        for message in _up_to(limit, source):
            if message.kind == BATCH:
                self.offsets.append(message.offset)
                self.rows.append(message.rows)
            elif message.kind == DICTIONARY:
                self._dictionaries.append(message)
        self._reader = pyarrow().ipc.open_file(FileView(source))
        self.schema = self._reader.schema

    def prelude(self, number: int) -> Sequence[Message]:
        return self._dictionaries

    def head(self, number: int) -> bytes | None:
        # The file's own numbers of dictionaries need not be those that arrow gives.
        return None if self._dictionaries else self.schema.serialize().to_pybytes()

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
        self._first_rows = array("q", itertools.accumulate(self._batches.rows, initial=0))
        self._num_rows = min(self._first_rows[-1], limit or self._first_rows[-1])
        self._kept = kept
        if self._num_rows == 0:
            raise DataError("empty-data", f"A data set must hold rows, but `{source.path}` holds none.")

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        # What a large batch gives holds until the next rows are asked for.
        with self._kept.lock, translated(self._source.path, KIND):
            return rows_of(self, indices, columns, lambda index: self._block(index, columns))

    def place(self, index: int) -> str:
        return f"`{self._source.path.name}`, row {index} (from 0)"

    def _block(self, index: int, columns: Sequence[str]) -> tuple[int, Any]:
        """The batch of a row, and its first row."""
        number = bisect.bisect_right(self._first_rows, index) - 1
        table = self._kept.get((self._source, number), lambda: self._read(number))
        return self._first_rows[number], table.select(list(columns))

    def _read(self, number: int) -> tuple[Any, int]:
        message = message_at(self._source, self._batches.offsets[number])
        if message.length > LARGE_BYTES and not message.buffers and supports(self._batches.schema):
            head = self._batches.head(number)
            if head is not None:
                return self._large(head, message), RESIDENT_BYTES
        size = sum(unpacked_bytes(self._source, part) for part in (*self._batches.prelude(number), message))
        if size > MAX_BATCH_BYTES:
            raise ValueError(
                f"its batch of row {self._first_rows[number]:,} has {size:,} bytes, of {MAX_BATCH_BYTES:,} at "
                f"most; write it with smaller batches, such as `max_chunksize=1000` of pyarrow"
            )
        table = self._batches.read(number)
        # Offsets of strangers may lead out of the memory that was read.
        table.validate(full=True)
        _refuse_other_rows(table, message)
        return table, size

    def _large(self, head: bytes, message: Message) -> LargeBatch:
        header = self._source.read(message.offset, message.body - message.offset)
        body_bytes = message.length - len(header)
        body = SparseBody(self._source, head + header, message.body, body_bytes)
        batch = _stream(body.memory).read_next_batch()
        # Of the lengths alone: offsets, which were not read, are all 0.
        batch.validate()
        _refuse_other_rows(batch, message)
        return LargeBatch(body, batch, batch.schema.names)


def open_arrow(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> ArrowFile:
    """Raises `DataError` for a file that is cut off, damaged or no arrow file."""
    source = Source(path)
    refuse_other_kinds(source, KIND, FILE_MAGIC)
    pyarrow()
    with translated(path, KIND):
        return ArrowFile(source, limit, kept or Kept())


def _stream(content: Any) -> Any:
    return pyarrow().ipc.open_stream(pyarrow().py_buffer(content))


def _refuse_other_rows(batch: Any, message: Message) -> None:
    if batch.num_rows != message.rows:
        raise ValueError(f"the batch at byte {message.offset:,} has other rows than its header says")


def _up_to(limit: int | None, source: Source) -> Iterator[Message]:
    """Messages until there are so many rows. Raises `ValueError` where one has absurdly many."""
    rows = 0
    for message in messages_of(source):
        refuse_absurd(message.rows, message.length, "rows")
        yield message
        rows += message.rows if message.kind == BATCH else 0
        if limit is not None and rows >= limit:
            return


def _with(prelude: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    """Without the dictionary that the message replaces."""
    if message.dictionary is None:
        return (*prelude, message)
    return (*(each for each in prelude if each.dictionary != message.dictionary), message)
