"""JSON: an object per line, or a list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.storage.json_text import parse_json
from ladle_engine.tasks.tables.base import joined_kinds, kind_of
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.lines import (
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    UTF8_MARK,
    Block,
    RowIndex,
    decoded,
    lines_of,
    open_lines,
)
from ladle_engine.tasks.tables.row_files import RowFile, StoredRow
from ladle_engine.tasks.tables.source import Source

MAX_COLUMNS = 10_000
MAX_VALUES = 4_000_000
"""Of one row."""
BLANKS = b" \t\r\n"
STRUCTURE = re.compile(rb'[{}\[\]"]|\\.', re.DOTALL)


class Columns:
    """The names and kinds of the values of all rows."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}

    def add(self, row: Mapping[str, Any], place: str) -> None:
        for name, value in row.items():
            self._kinds.setdefault(name, set()).add(kind_of(value))
        if len(self._kinds) > MAX_COLUMNS:
            raise DataError(
                "invalid-data",
                f"The rows of a table must have at most {MAX_COLUMNS:,} names together, but there are more by {place}.",
            )

    def kinds(self) -> Mapping[str, str]:
        return {name: joined_kinds(kinds) for name, kinds in self._kinds.items()}


class JsonLines:
    """Each stored row is a line."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self.columns = columns
        self._path = path

    def split(self, block: Block) -> list[StoredRow]:
        lines = enumerate(block.content.splitlines(), start=block.first_line)
        return [StoredRow(number, line) for number, line in lines if line.strip()]

    def values(self, row: StoredRow) -> Mapping[str, Any]:
        return parsed(row.content, self._path, row.line)


class JsonList(JsonLines):
    """Each stored row is an object of the list."""

    def split(self, block: Block) -> list[StoredRow]:
        found, line, seen = [], block.first_line, 0
        for start, end in objects_in(block.content):
            line, seen = line + line_ends(block.content[seen:start]), start
            found.append(StoredRow(line, block.content[start:end]))
        return found


def open_json(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> RowFile:
    """Whichever of both it is: a list begins with `[`. Raises `DataError` that names the line."""
    source = open_lines(path, "a file of JSON lines")
    first = source.read(0, CHUNK_BYTES).removeprefix(UTF8_MARK).lstrip(BLANKS)[:1]
    opener = _open_list if first == b"[" else _open_lines
    return opener(source, limit, kept or Kept())


def parsed(content: bytes, path: Path, line: int) -> dict[str, Any]:
    """An object with distinct names, and text that UTF-8 can hold. Raises `DataError`."""
    decoded(content, path, line)
    try:
        row = parse_json(content, most_bytes=MAX_LINE_BYTES, most_values=MAX_VALUES, unique=True)
        if b"\\u" in content:
            # Half of a character, as in "\\ud83d", fails whoever encodes the text.
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _broken(path, line, "has an escape, such as \\ud83d, that is only half of a character") from error
    except ValueError as error:
        raise _broken(path, line, f"does not parse: {error}") from error
    if not isinstance(row, dict):
        raise _broken(path, line, f"is {kind_of(row)}")
    return row


def _broken(path: Path, line: int, how: str) -> DataError:
    return DataError(
        "invalid-data",
        f"`{path}` must hold one JSON object per line, or a list of objects, but what begins at line {line} {how}.",
    )


def _open_lines(source: Source, limit: int | None, kept: Kept) -> RowFile:
    index, end, columns = RowIndex(source), 0, Columns()
    for number, line in enumerate(lines_of(source), start=1):
        if not line.content.strip():
            continue
        if index.num_rows == limit:
            break
        columns.add(parsed(line.content, source.path, number), f"line {number} of `{source.path}`")
        index.add(line.offset, number)
        end = line.offset + len(line.content)
    index.finish(end)
    if index.num_rows == 1:
        _refuse_columns(source, end)
    return RowFile(source, index, JsonLines(source.path, columns.kinds()), kept)


def _refuse_columns(source: Source, end: int) -> None:
    """pandas writes an object of columns, with their values by number, where it is not told otherwise."""
    values = parsed(source.read(0, end).removeprefix(UTF8_MARK), source.path, 1).values()
    if any(values) and all(isinstance(value, dict) and _is_numbered(value) for value in values):
        raise DataError(
            "invalid-data",
            f"`{source.path}` must hold one JSON object per row, but holds one per column. Write it with "
            f'`to_json(..., orient="records", lines=True)` of pandas.',
        )


def _is_numbered(column: Mapping[str, Any]) -> bool:
    return list(column) == [str(row) for row in range(len(column))]


def _open_list(source: Source, limit: int | None, kept: Kept) -> RowFile:
    index, end, columns = RowIndex(source), 0, Columns()
    for offset, line, content in _objects_of(source):
        if index.num_rows == limit:
            break
        columns.add(parsed(content, source.path, line), f"line {line} of `{source.path}`")
        index.add(offset, line)
        end = offset + len(content)
    index.finish(end)
    return RowFile(source, index, JsonList(source.path, columns.kinds()), kept)


def _objects_of(source: Source) -> Iterator[tuple[int, int, bytes]]:
    """Offset, line and text of each object of a list. Raises `DataError` for whatever else is in it."""
    head = source.read(0, CHUNK_BYTES)
    start = head.index(b"[") + 1
    line, between = 1 + line_ends(head[:start]), b""
    waiting, read = b"", start
    while read < source.size:
        # As much again as there is of an object that has not ended.
        chunk = source.read(read, max(CHUNK_BYTES, len(waiting)))
        waiting, read = waiting + chunk, read + len(chunk)
        pulse()
        done = seen = 0
        for begin, end in objects_in(waiting):
            line, seen = line + line_ends(waiting[seen:begin]), begin
            if waiting[done:begin].strip(BLANKS) != between:
                raise _broken(source.path, line, "does not follow the one before it after a comma")
            yield read - len(waiting) + begin, line, waiting[begin:end]
            done, between = end, b","
        line += line_ends(waiting[seen:done])
        waiting = waiting[done:]
        if len(waiting) > MAX_LINE_BYTES:
            raise _broken(source.path, line, f"has more than {MAX_LINE_BYTES:,} bytes")
    if waiting.strip(BLANKS) != b"]":
        raise _broken(source.path, line, "is not an object, or does not end; the last `]` closes the list")


def objects_in(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each object or list that stands at the top, up to a closing bracket of what is around."""
    depth, start, in_text = 0, 0, False
    for found in STRUCTURE.finditer(content):
        char = found[0]
        if in_text:
            in_text = char != b'"'
        elif char == b'"':
            in_text = True
        elif char in b"{[":
            start = start if depth else found.start()
            depth += 1
        elif char in b"}]":
            depth -= 1
            if depth == 0:
                yield start, found.end()
            if depth < 0:
                return


def line_ends(content: bytes) -> int:
    return content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
