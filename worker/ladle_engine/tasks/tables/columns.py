"""Which columns of a table a task uses, and their values row by row, checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ladle_engine.errors import DataError, TaskError
from ladle_engine.options import did_you_mean, option
from ladle_engine.tasks.tables.base import NUMBER, NUMBERS, OR, TEXT, WHOLE, WHOLES, Table, kind_of
from ladle_report.safe_text import one_line

LISTED = 20
"""Columns that a message lists."""
SHOWN_CHARS = 80
MAX_WHOLE = 2.0**53
"""Larger numbers are not all there in float64."""
WORDS_OF_A_SENTENCE = 5
WHOLE_TEXT = re.compile(r"\s*[+-]?[0-9]{1,18}\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What every task with tables takes: a dataclass of task options inherits it."""

    columns: dict[str, str] = option({}, "role -> name of its column, where the name is not a usual one")
    split: str | None = option(None, "which split of a folder with several, such as `validation`")
    limit: int | None = option(None, "takes so many rows from the beginning, and no more", at_least=1)


@dataclass(frozen=True)
class Role:
    """What a task needs a column for."""

    name: str
    usual: tuple[str, ...] = ()
    """Names that such a column usually has. The role's own name is one, and wins."""
    required: bool = True
    kinds: tuple[str, ...] = ()
    """What it takes, of the kinds in `base`; anything where there are none. A number may be written as text."""


def find_columns(table: Table, roles: Sequence[Role], given: Mapping[str, str]) -> dict[str, str]:
    """Role -> column, without the optional roles that have none. `given` is the task option `columns`.

    Raises `DataError` (invalid-data) that lists what is there, and `TaskError` (invalid-task-options) for a role that
    the task has not.
    """
    names = [role.name for role in roles]
    for name in given:
        if name not in names:
            raise TaskError(
                "invalid-task-options",
                f"`columns` must name roles of the task ({_listed(names)}), but names `{name}`."
                f"{did_you_mean(name, names)}",
            )
    found = {role.name: _find(table, role, given) for role in roles}
    return {role: column for role, column in found.items() if column is not None}


def role_rows(
    table: Table, roles: Sequence[Role], found: Mapping[str, str], indices: Sequence[int]
) -> list[dict[str, Any]]:
    """The rows at `indices` by role. `found` is what `find_columns` returned; an optional role may have None.

    Raises `DataError` (invalid-data) that names the place of a value of another kind, or of none.
    """
    present = [role for role in roles if role.name in found]
    rows = table.rows(indices, list(dict.fromkeys(found.values())))
    return [
        {role.name: _value(table, index, role, found[role.name], row[found[role.name]]) for role in present}
        for index, row in zip(indices, rows, strict=True)
    ]


def _find(table: Table, role: Role, given: Mapping[str, str]) -> str | None:
    columns = table.columns
    if role.name in given:
        return _checked(table, role, _given(table, role, given[role.name]))
    usual = dict.fromkeys((role.name, *role.usual))
    there = [name for name in usual if name in columns] or _loosely(usual, columns)
    fitting = [name for name in there if fits(columns[name], role.kinds)]
    if role.name in fitting or len(fitting) == 1:
        return role.name if role.name in fitting else fitting[0]
    if fitting:
        raise DataError(
            "invalid-data",
            f"One column must be the task's `{role.name}`, but there are {_listed(fitting)}. Say which with the "
            f"task option {_as_option({**given, role.name: fitting[0]})}.",
        )
    if there and role.required:
        return _checked(table, role, there[0])
    if not role.required:
        return None
    raise DataError(
        "invalid-data",
        f"A column must be the task's `{role.name}`, named {_listed(list(usual), ' or ')}, but {_what_is_there(table)} "
        f"Say which it is with the task option {_as_option({**given, role.name: 'NAME'})}."
        f"{did_you_mean(role.name, columns)}",
    )


def _given(table: Table, role: Role, given: str) -> str:
    if given in table.columns:
        return given
    raise DataError(
        "invalid-data",
        f"`columns` must name a column that is there, but names `{given}` for `{role.name}`, and "
        f"{_what_is_there(table)}{did_you_mean(given, table.columns)}",
    )


def _checked(table: Table, role: Role, name: str) -> str:
    kind = table.columns[name]
    if not fits(kind, role.kinds):
        raise DataError(
            "invalid-data",
            f"The task's `{role.name}` must be {OR.join(role.kinds)}, but the column `{name}` is {kind}. "
            f"T{_what_is_there(table)[1:]}",
        )
    return name


def fits(kind: str, wanted: Sequence[str]) -> bool:
    """Whether a column of a kind may have the values that are wanted: text a number, and a number a whole one."""
    return not wanted or all(_one_fits(part, wanted) for part in kind.split(OR))


def _one_fits(kind: str, wanted: Sequence[str]) -> bool:
    numbers = {NUMBER, WHOLE}
    return (
        kind in wanted
        or (kind in numbers and not numbers.isdisjoint(wanted))
        or (kind == WHOLES and NUMBERS in wanted)
        or (kind == "list of nothing" and any(each.startswith("list") for each in wanted))
        or (kind == TEXT and not numbers.isdisjoint(wanted))
    )


def _value(table: Table, index: int, role: Role, column: str, value: Any) -> Any:
    if value is None and not role.required:
        return None
    converted = _as_number(value, role.kinds) if _is_converted(value, role.kinds) else value
    if converted is not None and fits(kind_of(converted), role.kinds) and not _has_gaps(converted, role.kinds):
        return converted
    raise DataError(
        "invalid-data",
        f"The task's `{role.name}` must be {OR.join(role.kinds) or 'there'} in every row, but `{column}` is "
        f"{_shown(value)} in {table.place(index)}.",
    )


def _has_gaps(value: Any, kinds: Sequence[str]) -> bool:
    """Whether something is absent in a list."""
    return bool(kinds) and isinstance(value, list) and any(each is None for each in value)


def _is_converted(value: Any, kinds: Sequence[str]) -> bool:
    """Text that must be a number, and numbers that must be whole or finite."""
    if isinstance(value, str):
        return bool(kinds) and TEXT not in kinds
    return isinstance(value, float) and not {NUMBER, WHOLE}.isdisjoint(kinds)


def _as_number(value: str | float, kinds: Sequence[str]) -> int | float | None:
    """What it says, whole where it must be. None for all else, NaN and infinity too."""
    if isinstance(value, str) and WHOLE_TEXT.fullmatch(value):
        return int(value)
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if NUMBER in kinds:
        return number if math.isfinite(number) else None
    # Whole numbers with gaps among them come out of pandas as floating ones.
    return int(number) if number.is_integer() and abs(number) <= MAX_WHOLE else None


def _loosely(names: Sequence[str] | Mapping[str, None], columns: Mapping[str, str]) -> list[str]:
    """Columns of these names, whatever their case, and whatever blanks are around them."""
    loose = {name.strip().casefold() for name in names}
    return [column for column in columns if column.strip().casefold() in loose]


def _what_is_there(table: Table) -> str:
    columns = [f"`{name}` ({kind})" for name, kind in table.columns.items()]
    more = f" and {len(columns) - LISTED} more" if len(columns) > LISTED else ""
    row = " These look like a row: the first line of a csv must name the columns." if _are_values(table) else ""
    return f"the columns there are {', '.join(columns[:LISTED])}{more}.{row}"


def _are_values(table: Table) -> bool:
    """Whether the names of the columns are rather a row of numbers and sentences, of a file without names."""
    return set(table.columns.values()) == {TEXT} and any(
        WHOLE_TEXT.fullmatch(name) or len(name.split()) >= WORDS_OF_A_SENTENCE for name in table.columns
    )


def _as_option(columns: Mapping[str, str]) -> str:
    """`columns` as it can be copied to a shell; what is after the = is right in Python too."""
    return f"`columns`, such as 'columns={json.dumps(columns, ensure_ascii=False)}'"


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, list) and None in value:
        return f"a {kind_of(value)} in which something is absent"
    text = one_line(repr(value)) if isinstance(value, (str, int, float)) else kind_of(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def _listed(names: Sequence[str], between: str = ", ") -> str:
    return between.join(f"`{name}`" for name in names)
