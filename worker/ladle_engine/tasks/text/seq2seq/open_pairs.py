"""Opens pairs of texts: columns of a table, or lines of two parallel files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import is_file
from ladle_engine.tasks.tables import OBJECT, TEXT, WHOLE, Role, Table, find_columns, open_table, role_rows
from ladle_engine.tasks.tables.open import OPENERS
from ladle_engine.tasks.text.seq2seq.languages import Languages
from ladle_engine.tasks.text.seq2seq.pairs import Pair, Pairs, chosen, codes_of
from ladle_engine.tasks.text.seq2seq.parallel_files import OTHER_FILES, find_parallel, open_parallel

TRANSLATION = "translation"
"""The column in which datasets of translations hold an object: language -> text."""
SOURCE_NAMES = (
    *("src", "source_text", "input", "inputs", "input_text", "article", "document", "dialogue", "text", "question"),
    *("prompt", "original", "sentence1"),
)
TARGET_NAMES = (
    *("tgt", "target_text", "output", "outputs", "output_text", "highlights", "summary", "answer", "response"),
    *("completion", "reference", "label", "labels", "simplified", "sentence2"),
)


def open_pairs(
    path: Path, *, columns: Mapping[str, str], split: str | None, limit: int | None, languages: Languages
) -> Pairs:
    """Raises `DataError` for data that are broken or empty, or have no such columns."""
    _refuse_half(path)
    if parallel := find_parallel(path):
        return open_parallel(parallel, columns=columns, split=split, limit=limit, languages=languages)
    table = open_table(path, split=split, limit=limit)
    if (column := _translations(table, columns)) is not None:
        return TranslationPairs(table, column, languages)
    return TablePairs(table, columns, languages)


class TablePairs:
    """Two columns of a table."""

    def __init__(self, table: Table, columns: Mapping[str, str], languages: Languages) -> None:
        self._table = table
        roles = [
            Role(name, usual=(*usual, *codes_of(language)), kinds=(TEXT, WHOLE))
            for name, usual, language in (
                ("source", SOURCE_NAMES, languages.source),
                ("target", TARGET_NAMES, languages.target),
            )
        ]
        self._columns = find_columns(table, roles, columns)
        # A value may be absent in a row, which is then left out.
        self._roles = [replace(role, required=False) for role in roles]

    @property
    def remarks(self) -> Sequence[str]:
        return self._table.remarks

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, indices: Sequence[int]) -> list[Pair]:
        rows = role_rows(self._table, self._roles, self._columns, indices)
        return [Pair(_text(row["source"]), _text(row["target"])) for row in rows]

    def place(self, index: int) -> str:
        return self._table.place(index)


class TranslationPairs:
    """Two languages of a column of objects."""

    def __init__(self, table: Table, column: str, languages: Languages) -> None:
        self._table = table
        self._column = column
        self._role = Role(column, kinds=(OBJECT,), required=False)
        first = self._objects([0])[0] if len(table) else {}
        self._source, self._target = chosen(
            list(first), languages.source, languages.target, f"the column `{column}` has the languages"
        )

    @property
    def remarks(self) -> Sequence[str]:
        return self._table.remarks

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, indices: Sequence[int]) -> list[Pair]:
        return [
            Pair(self._text(index, row, self._source), self._text(index, row, self._target))
            for index, row in zip(indices, self._objects(indices), strict=True)
        ]

    def place(self, index: int) -> str:
        return self._table.place(index)

    def _objects(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        rows = role_rows(self._table, [self._role], {self._column: self._column}, indices)
        return [row[self._column] or {} for row in rows]

    def _text(self, index: int, row: Mapping[str, Any], language: str) -> str:
        value = row.get(language)
        if value is not None and not isinstance(value, str):
            raise DataError(
                "invalid-data",
                f"`{self._column}` must have a text for `{language}`, but has a {type(value).__name__} in "
                f"{self.place(index)}.",
            )
        return value or ""


def _refuse_half(path: Path) -> None:
    """Raises `DataError` for one of two parallel files."""
    ending = path.suffix.removeprefix(".").lower()
    if path.suffix and ending not in OTHER_FILES and f".{ending}" not in OPENERS and is_file(path):
        raise DataError(
            "invalid-data",
            f"A pair of parallel files must be given by the folder that holds both, but `{path}` is one file. Give "
            f"`{path.parent}`; where it has several pairs, the task option `split` says which.",
        )


def _translations(table: Table, columns: Mapping[str, str]) -> str | None:
    """The column of objects, if the table has one and nothing else is asked for."""
    column = columns.get(TRANSLATION, TRANSLATION)
    return column if columns.keys() <= {TRANSLATION} and table.columns.get(column) == OBJECT else None


def _text(value: Any) -> str:
    """A whole number may be an answer as well."""
    return "" if value is None else str(value)
