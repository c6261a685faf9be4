"""CoNLL text files as tables: a word per line with its tags in columns, and an empty line after each sentence.

A row is a sentence; its columns are lists named `1`, `2`, ... as they stand in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import entries_of, is_folder
from ladle_engine.tasks.tables import TEXTS, Table
from ladle_engine.tasks.tables.folder import choose_split, find_files, split_of
from ladle_engine.tasks.tables.kept import Kept
from ladle_engine.tasks.tables.lines import Block, Line, RowIndex, decoded, lines_of, open_lines
from ladle_engine.tasks.tables.row_files import RowFile, StoredRow
from ladle_engine.tasks.tables.shards import Shards

SUFFIXES = (
    ".conll",
    ".conll2003",
    ".conll2002",
    ".bio",
    ".iob",
    ".iob1",
    ".iob2",
    ".iobes",
    ".bioes",
    ".bilou",
    ".ner",
)
"""Of files that hold nothing else."""
PERHAPS = (".txt", ".tsv", "")
"""Of files that may hold it."""
DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"O|[BIESLUM]-\S+")
HEAD_LINES = 200


class ConllRows:
    def __init__(self, path: Path, *, tabs: bool, width: int) -> None:
        """`tabs`: whether columns are separated by a tab each, and not by blanks; `width` is how many there are."""
        self._path = path
        self._tabs = tabs
        self._width = width
        self.columns: Mapping[str, str] = {str(number): TEXTS for number in range(1, width + 1)}

    def split(self, block: Block) -> list[StoredRow]:
        lines = (
            (number, decoded(content, self._path, number))
            for number, content in enumerate(block.content.splitlines(), start=block.first_line)
        )
        return list(self.sentences(lines))

    def sentences(self, lines: Iterator[tuple[int, str]]) -> Iterator[StoredRow]:
        """Of numbered lines. Raises `DataError` for a line with another number of columns."""
        first = 0
        words: list[list[str]] = []
        for number, line in lines:
            cells = cells_of(line, self._tabs)
            if is_break(cells) or (not words and is_comment(cells)):
                if words:
                    yield StoredRow(first, words)
                words = []
                continue
            if len(cells) != self._width:
                raise DataError(
                    "invalid-data",
                    f"Every word of a CoNLL file must have a line of {self._width} columns, as the first line has, but "
                    f"line {number} of `{self._path}` has {len(cells)}.",
                )
            first = first if words else number
            words.append(cells)
        if words:
            yield StoredRow(first, words)

    def values(self, row: StoredRow) -> Mapping[str, Sequence[str]]:
        return {name: list(column) for name, column in zip(self.columns, zip(*row.content, strict=True), strict=True)}


def find_conll(path: Path, split: str | None) -> list[Path]:
    """The CoNLL files that a path stands for; none where it stands for something else. Raises `DataError`."""
    if not is_folder(path):
        return [path] if _is_conll(path) else []
    entries = [entry for entry in entries_of(path) if not entry.is_folder and not entry.name.startswith(".")]
    named = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    if named:
        splits: dict[str, list[Path]] = {}
        for name in named:
            splits.setdefault(split_of(name), []).append(path / name)
        return splits[choose_split(path, list(splits), split)]
    if not any(entry.name.lower().endswith(PERHAPS[:2]) for entry in entries):
        return []
    files = list(find_files(path, split).files)
    return files if files and all(map(_is_conll, files)) else []


def open_conll(files: Sequence[Path], limit: int | None) -> Table:
    """Raises `DataError`: empty, not UTF-8, lines of different numbers of columns."""
    tables: list[Table] = []
    for path in files:
        rest = None if limit is None else limit - sum(map(len, tables))
        if rest is None or rest > 0:
            tables.append(_open_file(path, rest))
    return tables[0] if len(tables) == 1 else Shards(tables, may_lack_columns=False)


def cells_of(line: str, tabs: bool) -> list[str]:
    stripped = line.strip(" \t\r\n")
    if not stripped:
        return []
    # A word may be a no-break space, at which Python's own `split` splits.
    return [cell.strip(" ") for cell in stripped.split("\t")] if tabs else re.split(r"[ \t]+", stripped)


def is_break(cells: Sequence[str]) -> bool:
    """Between two sentences, or two documents."""
    return not cells or cells[0] == DOCUMENT


def is_comment(cells: Sequence[str]) -> bool:
    """Before a sentence; `#` may be a word as well, but then it has a tag."""
    return cells[0].startswith("#") and not TAG.fullmatch(cells[-1])


def _open_file(path: Path, limit: int | None) -> RowFile:
    source = open_lines(path, "a CoNLL file")
    rows = _layout(path, lines_of(source))
    offsets: dict[int, int] = {}
    end = 0

    def numbered() -> Iterator[tuple[int, str]]:
        nonlocal end
        for number, line in enumerate(lines_of(source), start=1):
            offsets[number] = line.offset
            end = line.offset + len(line.content)
            yield number, decoded(line.content, path, number)

    index = RowIndex(source)
    for row in rows.sentences(numbered()):
        if index.num_rows == limit:
            end = offsets[row.line]
            break
        index.add(offsets[row.line], row.line)
        # Lines before this sentence are not asked for again.
        offsets = {number: offset for number, offset in offsets.items() if number > row.line}
    index.finish(end)
    return RowFile(source, index, rows, Kept())


def _layout(path: Path, lines: Iterator[Line]) -> ConllRows:
    """By the first word. Raises `DataError`."""
    for number, line in enumerate(lines, start=1):
        text = decoded(line.content, path, number)
        cells = cells_of(text, "\t" in text)
        if is_break(cells) or is_comment(cells):
            continue
        if len(cells) < 2:
            raise DataError(
                "invalid-data",
                f"Every word of a CoNLL file must have a line of at least 2 columns, the word first and its tag last, "
                f"but line {number} of `{path}` has {len(cells)}.",
            )
        return ConllRows(path, tabs="\t" in text, width=len(cells))
    raise DataError("empty-data", f"A CoNLL file must hold words, but `{path}` holds none.")


def _is_conll(path: Path) -> bool:
    """By its name or, where the name allows both, by an empty line or a tag among the first lines."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix not in PERHAPS:
        return False
    for number, line in enumerate(lines_of(open_lines(path, "a text file")), start=1):
        text = decoded(line.content, path, number)
        cells = cells_of(text, "\t" in text)
        if suffix != ".tsv" or (is_break(cells) and number > 1) or TAG.fullmatch(cells[-1] if cells else ""):
            return True
        if number == HEAD_LINES:
            break
    return False
