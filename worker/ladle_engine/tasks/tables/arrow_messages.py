"""The messages of an arrow file: where they lie and how many rows they have, from their headers alone.

A stream is one message after the other; a file has a list of them at its end, and need not be a stream before it
(https://arrow.apache.org/docs/format/Columnar.html). Headers are FlatBuffers: a table knows its fields' offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ladle_engine.progress import pulse
from ladle_engine.tasks.tables.source import Source

FILE_MAGIC = b"ARROW1"
CONTINUATION = b"\xff\xff\xff\xff"
END = CONTINUATION + bytes(4)
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
HEAD_BYTES = 4096
MAX_HEADER_BYTES = 64 << 20
MAX_FOOTER_BYTES = 256 << 20
BLOCK_BYTES = 24
"""Of a batch in a file's list: offset, length of its header, length of its body."""
TAIL = struct.Struct("<i6s")
MAX_BUFFERS = 10_000_000


class Message(NamedTuple):
    kind: int
    offset: int
    length: int
    """Of all of it, with the body."""
    body: int
    """Where the body begins."""
    rows: int
    buffers: tuple[tuple[int, int], ...]
    """Offset in the body and length of each, where they are compressed; none otherwise."""
    dictionary: int | None
    """The number of the dictionary that it replaces; None where it only adds to one, and for other messages."""


def messages_of(source: Source) -> Iterator[Message]:
    """The schema, dictionaries and batches; of a file only the last two, and all dictionaries first.

    Raises `ValueError` that says what is wrong, such as a message that goes on after the file's end.
    """
    if is_file_format(source):
        for offset in _listed(source):
            yield message_at(source, offset)
            pulse()
        return
    offset = 0
    while offset < source.size and not _ends(source.read(offset, len(END))):
        message = message_at(source, offset)
        yield message
        pulse()
        offset += message.length


def is_file_format(source: Source) -> bool:
    return source.read(0, len(FILE_MAGIC)) == FILE_MAGIC


def _ends(head: bytes) -> bool:
    """Whether a stream ends here, also of the form before version 0.15."""
    return head == END or head[:4] == END[4:]


def _listed(source: Source) -> list[int]:
    """Where the messages of a file begin, by its footer."""
    tail = source.read(source.size - TAIL.size, TAIL.size)
    length, magic = TAIL.unpack(tail) if len(tail) == TAIL.size else (0, b"")
    if magic != FILE_MAGIC or not 0 < length <= min(source.size, MAX_FOOTER_BYTES):
        raise ValueError("it does not end as it should; was it cut off?")
    footer = source.read(source.size - TAIL.size - length, length)
    try:
        root = _Flat(footer, struct.unpack_from("<I", footer)[0])
        return [*root.firsts(2, BLOCK_BYTES), *root.firsts(3, BLOCK_BYTES)]
    except (struct.error, IndexError) as error:
        raise ValueError("its list of batches does not parse") from error


def message_at(source: Source, offset: int) -> Message:
    """Raises `ValueError`."""
    head = source.read(offset, HEAD_BYTES) if 0 <= offset < source.size else b""
    prefix = 8 if head.startswith(CONTINUATION) else 4
    header_bytes = struct.unpack_from("<i", head, prefix - 4)[0] if len(head) >= prefix else 0
    if not 0 < header_bytes <= min(MAX_HEADER_BYTES, source.size - offset):
        raise ValueError(f"no message begins at byte {offset:,}; was it cut off?")
    if prefix + header_bytes > len(head):
        head = source.read(offset, prefix + header_bytes)
    try:
        message = _message(head[prefix : prefix + header_bytes], offset, prefix)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the message at byte {offset:,} has a header that does not parse") from error
    if not offset < offset + message.length <= source.size:
        raise ValueError(f"the message at byte {offset:,} goes on after the file's end; was it cut off?")
    return message


class _Flat:
    """A table of a FlatBuffer."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self._position = position
        self._fields = position - struct.unpack_from("<i", content, position)[0]
        if not 0 <= self._fields < len(content):
            raise IndexError

    def number(self, field: int, form: str) -> int:
        """0 where it is absent."""
        place = self._place(field)
        return int(struct.unpack_from(form, self._content, place)[0]) if place else 0

    def table(self, field: int) -> _Flat | None:
        place = self._place(field)
        return _Flat(self._content, place + self._uint(place)) if place else None

    def firsts(self, field: int, size: int) -> list[int]:
        """The int64 that each structure of so many bytes in a vector begins with."""
        place = self._place(field)
        if not place:
            return []
        start = place + self._uint(place)
        count = self._uint(start)
        if start + 4 + count * size > len(self._content):
            raise IndexError
        return [struct.unpack_from("<q", self._content, start + 4 + size * each)[0] for each in range(count)]

    def pairs(self, field: int) -> tuple[tuple[int, int], ...]:
        """A vector of structures of two int64."""
        place = self._place(field)
        if not place:
            return ()
        start = place + self._uint(place)
        count = self._uint(start)
        if count > MAX_BUFFERS:
            raise IndexError
        numbers = struct.unpack_from(f"<{2 * count}q", self._content, start + 4)
        return tuple(zip(numbers[::2], numbers[1::2], strict=True))

    def _place(self, field: int) -> int:
        (size,) = struct.unpack_from("<H", self._content, self._fields)
        if 4 + 2 * field >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self._content, self._fields + 4 + 2 * field)
        return self._position + offset if offset else 0

    def _uint(self, place: int) -> int:
        return int(struct.unpack_from("<I", self._content, place)[0])


def _message(header: bytes, offset: int, prefix: int) -> Message:
    root = _Flat(header, struct.unpack_from("<I", header)[0])
    kind, body_bytes, content = root.number(1, "<B"), root.number(3, "<q"), root.table(2)
    dictionary, batch = None, content
    if kind == DICTIONARY and content is not None:
        dictionary = None if content.number(2, "<B") else content.number(0, "<q")
        batch = content.table(1)
    rows = 0
    buffers: tuple[tuple[int, int], ...] = ()
    if kind in (BATCH, DICTIONARY) and batch is not None:
        rows = batch.number(0, "<q")
        buffers = batch.pairs(2) if batch.table(3) is not None else ()
    body = offset + prefix + len(header)
    if body_bytes < 0 or rows < 0:
        raise IndexError
    return Message(kind, offset, body + body_bytes - offset, body, rows, buffers, dictionary)


def unpacked_bytes(source: Source, message: Message) -> int:
    """What a message takes in memory: compressed buffers say at their beginning how long they are."""
    sizes = [message.length]
    for offset, length in message.buffers:
        head = source.read(message.body + offset, 8) if length >= 8 else b""
        sizes += struct.unpack("<q", head) if len(head) == 8 else ()
    return sum(max(size, 0) for size in sizes)
