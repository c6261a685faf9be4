"""Plain text: a row per line, blank lines too, in the column `text`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ladle_engine.tasks.tables.base import TEXT
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.lines import Block, RowIndex, decoded, lines_of, open_lines
from ladle_engine.tasks.tables.row_files import RowFile, StoredRow


class PlainRows:
    columns: Mapping[str, str] = {"text": TEXT}

    def __init__(self, path: Path) -> None:
        self._path = path

    def split(self, block: Block) -> list[StoredRow]:
        lines = block.content.splitlines()
        return [StoredRow(block.first_line + number, line) for number, line in enumerate(lines)]

    def values(self, row: StoredRow) -> Mapping[str, str]:
        return {"text": decoded(row.content, self._path, row.line)}


def open_text(path: Path, *, limit: int | None = None, kept: Kept | None = None) -> RowFile:
    """Any text file, whatever its name; a line ends with LF, CR LF or CR. Raises `DataError`."""
    source = open_lines(path, "a text file", markup=True)
    index, end = RowIndex(source), 0
    for number, line in enumerate(lines_of(source), start=1):
        if index.num_rows == limit:
            break
        decoded(line.content, path, number)
        index.add(line.offset, number)
        end = line.offset + len(line.content)
    index.finish(end)
    return RowFile(source, index, PlainRows(path), kept or Kept())
