"""csv and tsv: the first line names the columns, and every value is text."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.base import TEXT
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.lines import MAX_LINE_BYTES, Block, Line, RowIndex, decoded, lines_of, open_lines
from ladle_engine.tasks.tables.row_files import RowFile, StoredRow
from ladle_engine.tasks.tables.source import Source

DELIMITERS = ",;\t|"
"""The first one that the header has, where the file's name does not say."""
MAX_COLUMNS = 100_000


@dataclass(frozen=True)
class Dialect:
    delimiter: str
    quoted: bool = True
    """Whether a value may stand between double quotes. In many .tsv files a quote is a character like any other."""

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]


class LineFeed:
    """Decoded lines for a csv reader, which takes as many as a row has; where it is now."""

    def __init__(self, lines: Iterator[Line], path: Path, first_line: int = 1) -> None:
        self._lines = lines
        self._path = path
        self.offset = 0
        """The end of what was taken."""
        self.line = first_line
        """The number of the line that comes next."""

    def __iter__(self) -> LineFeed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        text = decoded(line.content, self._path, self.line)
        self.offset = line.offset + len(line.content)
        self.line += 1
        return text


class CsvRows:
    def __init__(self, path: Path, names: Sequence[str], dialect: Dialect) -> None:
        self.columns: Mapping[str, str] = dict.fromkeys(names, TEXT)
        self._path = path
        self._dialect = dialect

    def split(self, block: Block) -> list[StoredRow]:
        pieces = (Line(0, piece) for piece in block.content.splitlines(keepends=True))
        feed = LineFeed(pieces, self._path, block.first_line)
        return [StoredRow(line, row) for _, line, row in rows_of(feed, self._dialect, self._path)]

    def values(self, row: StoredRow) -> Mapping[str, Any]:
        return dict(zip(self.columns, row.content, strict=True))


def open_csv(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> RowFile:
    """Raises `DataError` that names the line of broken quotes, or of a row of another length than the header."""
    kept = kept or Kept()
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    source = open_lines(path, "a csv file")
    dialect = Dialect(_delimiter(source))
    try:
        return _open(source, dialect, limit, kept)
    except DataError:
        if dialect.delimiter != "\t":
            raise
        table = _unquoted(source, limit, kept)
        if table is None:
            raise
        return table


def _unquoted(source: Source, limit: int | None, kept: Kept) -> RowFile | None:
    """The table as it is where quotes are characters like any other, if that makes one."""
    remark = (
        f"The quotes in `{source.path.name}` do not come in pairs around values, so they were taken as characters of "
        f"the text."
    )
    try:
        return _open(source, Dialect("\t", quoted=False), limit, kept, (remark,))
    except DataError:
        return None


def _open(source: Source, dialect: Dialect, limit: int | None, kept: Kept, remarks: Sequence[str] = ()) -> RowFile:
    feed = LineFeed(lines_of(source), source.path)
    rows = rows_of(feed, dialect, source.path)
    names = _names(next(rows, (0, 1, []))[2], source.path)
    index, end = RowIndex(source), 0
    for offset, line, row in rows:
        if index.num_rows == limit:
            break
        if len(row) != len(names):
            raise DataError(
                "invalid-data",
                f"Every row must have as many values as the first line has names ({len(names)}), but the one at line "
                f"{line} of `{source.path}` has {len(row)}. A value with {dialect.delimiter!r} in it stands between "
                f"double quotes.",
            )
        index.add(offset, line)
        end = feed.offset
    index.finish(end)
    return RowFile(source, index, CsvRows(source.path, names, dialect), kept, remarks)


def rows_of(feed: LineFeed, dialect: Dialect, path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Offset, line and values of each row; blank lines are none. Raises `DataError` that names the line."""
    reader = dialect.reader(feed)
    while True:
        offset, line = feed.offset, feed.line
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                "invalid-data",
                f"`{path}` must be a csv file, but its row at line {line} does not parse ({error}). A value with "
                f"quotes, delimiters or line ends in it stands between double quotes, and a double quote in it is "
                f"written twice.",
            ) from error
        if row is None:
            return
        if row:
            yield offset, line, row


def _delimiter(source: Source) -> str:
    if source.path.suffix.lower() == ".tsv":
        return "\t"
    line = next(lines_of(source), Line(0, b""))
    header = decoded(line.content, source.path, 1)
    return next((each for each in DELIMITERS if each in header), ",")


def _names(header: Sequence[str], path: Path) -> list[str]:
    """A column without a name gets one as pandas gives it, whose index has none when it is written."""
    if len(header) > MAX_COLUMNS:
        raise DataError(
            "invalid-data", f"A table must have at most {MAX_COLUMNS:,} columns, but `{path}` has {len(header):,}."
        )
    names = [name if name.strip() else f"Unnamed: {number}" for number, name in enumerate(header)]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise DataError(
            "invalid-data",
            f"Every column must have a name of its own in the first line, but in `{path}` `{twice}` stands "
            f"{names.count(twice)} times.",
        )
    return names
