"""A large batch of an arrow file, of which only the bytes of the rows that are asked for are read.

Arrow gets memory as long as the batch, of which nothing is there yet; before rows are looked at, what they need is
read into it. Such memory takes what was read, and gives it back.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any

from ladle_engine.tasks.tables.arrow_values import MAX_ASKED_BYTES, pyarrow
from ladle_engine.tasks.tables.source import Source

GRAIN_BYTES = 1 << 18
"""Read at once."""
RESIDENT_BYTES = 32 << 20
"""What is given back once so much was read."""
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class SparseBody:
    """Memory that holds `head`, and then the file from `offset` on as far as it was asked for."""

    def __init__(self, source: Source, head: bytes, offset: int, length: int) -> None:
        self._source = source
        self._shift = offset - len(head)
        self._length = len(head) + length
        self.memory = mmap.mmap(-1, self._length, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | NO_RESERVE)
        self.memory[: len(head)] = head
        self._first_grain = -(-len(head) // GRAIN_BYTES)
        """The first one without any of the head."""
        self._begin = len(head)
        self._there: set[int] = set()

    def fill(self, start: int, end: int) -> None:
        """Reads what is missing of this part. Raises `ValueError` for one that is absurdly long."""
        if not 0 <= start <= end <= self._length or end - start > MAX_ASKED_BYTES:
            raise ValueError(f"its rows need the bytes {start:,} to {end:,} of a batch")
        for grain in range(start // GRAIN_BYTES, -(-end // GRAIN_BYTES)):
            if grain not in self._there:
                first = max(grain * GRAIN_BYTES, self._begin)
                last = min((grain + 1) * GRAIN_BYTES, self._length)
                self.memory[first:last] = self._source.read(first + self._shift, last - first)
                self._there.add(grain)

    def give_back(self) -> None:
        """Everything that was read, where that is much. Nothing of it may be in use."""
        if len(self._there) * GRAIN_BYTES < RESIDENT_BYTES:
            return
        for grain in self._there:
            if grain >= self._first_grain:
                length = min(GRAIN_BYTES, self._length - grain * GRAIN_BYTES)
                self.memory.madvise(mmap.MADV_REMOVE, grain * GRAIN_BYTES, length)
        self._there = {grain for grain in self._there if grain < self._first_grain}


class LargeBatch:
    """What there is of arrow's tables here: the length, some columns of it, and a slice."""

    def __init__(self, body: SparseBody, batch: Any, columns: Sequence[str]) -> None:
        self._body = body
        self._batch = batch
        self._columns = columns
        buffer = pyarrow().py_buffer(body.memory)
        self._range = buffer.address, buffer.address + buffer.size

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def select(self, columns: Sequence[str]) -> LargeBatch:
        return LargeBatch(self._body, self._batch, columns)

    def slice(self, start: int, count: int) -> Any:
        """A table, valid until the next slice. Raises `ValueError`, and what arrow raises for offsets that lie."""
        self._body.give_back()
        part = self._batch.select(list(self._columns)).slice(start, count)
        for column in part.columns:
            self._read(column)
        part.validate(full=True)
        return pyarrow().Table.from_batches([part])

    def _read(self, array: Any) -> None:
        """All that an array needs, its children too."""
        if hasattr(array, "storage"):
            array = array.storage
        stored, types = array.type, pyarrow().types
        if types.is_null(stored):
            return
        buffers, first, last = array.buffers(), array.offset, array.offset + len(array)
        self._fill(buffers[0], first // 8, last // 8 + 1)
        if types.is_dictionary(stored):
            self._read(array.indices)
        elif types.is_struct(stored):
            for number in range(stored.num_fields):
                self._read(array.field(number))
        elif types.is_fixed_size_list(stored):
            self._read(array.values.slice(first * stored.list_size, len(array) * stored.list_size))
        elif (width := _offset_bytes(stored)) is not None:
            self._fill(buffers[1], first * width, (last + 1) * width)
            begin, end = self._offsets(buffers[1], first, last, width)
            if types.is_list(stored) or types.is_large_list(stored):
                self._read(array.values.slice(begin, end - begin))
            else:
                self._fill(buffers[2], begin, end)
        else:
            self._fill(buffers[1], first * stored.bit_width // 8, last * stored.bit_width // 8 + 1)

    def _fill(self, buffer: Any, start: int, end: int) -> None:
        """Part of a buffer, as far as that has it. One that arrow made itself is there already."""
        if buffer is not None and self._range[0] <= buffer.address < self._range[1]:
            place = buffer.address - self._range[0]
            self._body.fill(place + min(start, buffer.size), place + min(end, buffer.size))

    def _offsets(self, buffer: Any, first: int, last: int, width: int) -> tuple[int, int]:
        """Where the values of rows begin and end. Raises `ValueError` where that cannot be."""
        if buffer is None or (last + 1) * width > buffer.size:
            raise ValueError("its offsets end before its rows")
        content = memoryview(buffer).cast("B")
        begin, end = (
            int.from_bytes(content[row * width : (row + 1) * width], "little", signed=True) for row in (first, last)
        )
        if not 0 <= begin <= end:
            raise ValueError("its offsets do not rise")
        return begin, end


def supports(schema: Any) -> bool:
    """Whether all types are among those that are read piece by piece."""
    return all(_supported(field.type) for field in schema)


def _supported(stored: Any) -> bool:
    types = pyarrow().types
    if hasattr(stored, "storage_type"):
        return _supported(stored.storage_type)
    if types.is_struct(stored):
        return all(_supported(field.type) for field in stored)
    if types.is_list(stored) or types.is_large_list(stored) or types.is_fixed_size_list(stored):
        return _supported(stored.value_type)
    checks: tuple[Callable[[Any], bool], ...] = (
        types.is_primitive, types.is_null, types.is_dictionary, types.is_decimal, types.is_fixed_size_binary
    )  # fmt: skip
    return _offset_bytes(stored) is not None or any(check(stored) for check in checks)


def _offset_bytes(stored: Any) -> int | None:
    """Of the offsets of a type with such; None for others."""
    types = pyarrow().types
    if types.is_string(stored) or types.is_binary(stored) or types.is_list(stored):
        return 4
    large = types.is_large_string(stored) or types.is_large_binary(stored) or types.is_large_list(stored)
    return 8 if large else None
