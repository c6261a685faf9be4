"""Several files as one table."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.tasks.tables.base import NOTHING, NUMBER, OR, WHOLE, Table, joined_kinds


class Shards:
    """The rows of tables one after the other."""

    def __init__(self, tables: Sequence[Table], *, may_lack_columns: bool, remarks: Sequence[str] = ()) -> None:
        """Raises `DataError` where their columns differ; where some may be absent, only for different kinds."""
        self._tables = tables
        self._first_rows = array("q", itertools.accumulate(map(len, tables), initial=0))
        self.columns = _columns_of(tables, may_lack_columns)
        self.class_names = _class_names_of(tables)
        self.remarks = list(dict.fromkeys([*remarks, *(remark for table in tables for remark in table.remarks)]))

    def __len__(self) -> int:
        return self._first_rows[-1]

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for number, group in itertools.groupby(sorted(set(indices)), key=self._table_of):
            wanted, table = list(group), self._tables[number]
            present = [column for column in columns if column in table.columns]
            rows = table.rows([index - self._first_rows[number] for index in wanted], present)
            for index, row in zip(wanted, rows, strict=True):
                found[index] = {column: row.get(column) for column in columns}
        return [dict(found[index]) for index in indices]

    def place(self, index: int) -> str:
        number = self._table_of(index)
        return self._tables[number].place(index - self._first_rows[number])

    def _table_of(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return bisect_right(self._first_rows, index) - 1


def _columns_of(tables: Sequence[Table], may_lack_columns: bool) -> Mapping[str, str]:
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for name, kind in table.columns.items():
            kinds.setdefault(name, set()).add(kind)
    for table in tables:
        lacking = [] if may_lack_columns else [name for name in kinds if name not in table.columns]
        if lacking:
            raise _differing(table, tables, lacking[0], "is not there")
        for name, kind in table.columns.items():
            if not may_lack_columns and not _agree(kinds[name]):
                raise _differing(table, tables, name, f"is {kind}")
    return {name: joined_kinds({part for kind in found for part in kind.split(OR)}) for name, found in kinds.items()}


def _agree(kinds: set[str]) -> bool:
    """Numbers may be whole in some files, and a column may be empty."""
    return len(kinds - {NOTHING}) <= 1 or kinds - {NOTHING} == {NUMBER, WHOLE}


def _differing(table: Table, tables: Sequence[Table], name: str, how: str) -> DataError:
    other = next(each for each in tables if each.columns.get(name) not in (None, table.columns.get(name)))
    return DataError(
        "invalid-data",
        f"All files of a data set must have the same columns, but `{name}` {how} in {table.place(0)}, and is "
        f"{other.columns[name]} in {other.place(0)}. Give one of them, or a folder of those that agree.",
    )


def _class_names_of(tables: Sequence[Table]) -> Mapping[str, Sequence[str]]:
    """Raises `DataError` where the same numbers have other names."""
    first = tables[0]
    for table in tables[1:]:
        for column, names in table.class_names.items():
            if tuple(first.class_names.get(column, names)) != tuple(names):
                raise DataError(
                    "invalid-data",
                    f"All files of a data set must have the same classes, but those of `{column}` differ between "
                    f"{first.place(0)} and {table.place(0)}.",
                )
    return {column: names for table in tables for column, names in table.class_names.items()}
