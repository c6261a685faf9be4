"""Labels of texts, as tables have them, as the numbers that a model is compared with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.storage.json_text import parse_json
from ladle_engine.tasks.label_names import by_loose_name, by_name, labels_of
from ladle_engine.tasks.tables import Table
from ladle_report.safe_text import one_line

LISTED = 10
SHOWN_CHARS = 80
WHOLE_AS_TEXT = re.compile(r"([0-9]+)\.0+")
NAME = re.compile(r"[^\W\d_]")
"""A label without a letter is a number that is wrong, or nothing: names would not help."""
NO_NAMES = " The model's `config.json` has no names of classes: give it an `id2label`, or write the labels as numbers."
OTHER_TYPE = "If the model is for something else, say so with the task option `problem_type`."


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """The values of a table's column of labels, in order."""

    table: Table
    name: str
    values: Sequence[Any]

    def refuse(self, rule: str, index: int, value: Any, *, code: str = "invalid-data", advice: str = "") -> NoReturn:
        """Raises `DataError` about the value in a row, or a part of it."""
        shown = "absent" if value is None else one_line(repr(value)[:SHOWN_CHARS])
        raise DataError(code, f"{rule}, but `{self.name}` is {shown} in {self.table.place(index)}.{advice}")


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What a model can tell apart."""

    number: int
    names: Mapping[str, int]
    """Name -> class; empty where the config has no names."""

    @property
    def has_names(self) -> bool:
        """Names that say more than the numbers."""
        return any(name != f"LABEL_{label}" for name, label in self.names.items())

    @property
    def rule(self) -> str:
        named = list(self.names) if self.has_names else []
        more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
        listed = f"names of the model's classes ({', '.join(named[:LISTED])}{more}) or " if named else ""
        return f"Labels must be {listed}whole numbers from 0 to {self.number - 1}"


def single_labels(column: LabelColumn, classes: Classes) -> Tensor:
    """int64 [N]. Raises `DataError`: invalid-data, unknown-classes."""
    first: dict[Any, int] = {}
    for index, value in enumerate(column.values):
        if isinstance(value, (list, dict)):
            column.refuse("There must be one label for each text", index, value, advice=f" {OTHER_TYPE}")
        first.setdefault(_key(value), index)
    label_of = meanings(column, first, classes)
    return torch.tensor([label_of[_key(value)] for value in column.values], dtype=torch.int64)


def label_sets(column: LabelColumn, classes: Classes) -> Tensor:
    """bool [N, C], from lists of labels, or from lists of one 0 or 1 for each class. Raises `DataError`."""
    lists = [_as_list(value) for value in column.values]
    for index, (value, each) in enumerate(zip(column.values, lists, strict=True)):
        if each is None or any(isinstance(part, (list, dict)) for part in each):
            column.refuse("The labels of a text must be a list", index, value)
    if _are_vectors([each for each in lists if each is not None], classes.number):
        return torch.tensor([[float(part) == 1 for part in each or ()] for each in lists])
    first: dict[Any, int] = {}
    for index, each in enumerate(lists):
        for part in each or ():
            first.setdefault(_key(part), index)
    label_of = meanings(column, first, classes)
    sets = torch.zeros(len(lists), classes.number, dtype=torch.bool)
    for index, each in enumerate(lists):
        sets[index, [label_of[_key(part)] for part in each or ()]] = True
    return sets


def numbers(column: LabelColumn) -> Tensor:
    """float32 [N]. Raises `DataError`."""
    rule = "The model gives one number for each text, so every label must be a number"
    found = []
    for index, value in enumerate(column.values):
        number = _as_number(value)
        if number is None:
            column.refuse(rule, index, value, advice=f" {OTHER_TYPE}")
        found.append(number)
    return torch.tensor(found, dtype=torch.float32)


def flags(column: LabelColumn) -> Tensor:
    """bool [N], of a column that says of each text whether it has one label. Raises `DataError`."""
    found = []
    for index, value in enumerate(column.values):
        number = _as_number(value)
        if isinstance(value, bool):
            number = float(value)
        if number not in (0, 1):
            column.refuse("A column that is named as a label must have 0 or 1 in every row", index, value)
        found.append(number == 1)
    return torch.tensor(found)


def _key(value: Any) -> Any:
    """Whole numbers of any type are the same label; true is not 1 before it is looked at as a name."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if isinstance(value, bool) else value


def meanings(column: LabelColumn, first: Mapping[Any, int], classes: Classes) -> dict[Any, int]:
    """Value -> class, for all that there are; `first` says in which row each is first."""
    for value, index in first.items():
        if not isinstance(value, (int, str)):
            advice = f" {OTHER_TYPE}" if isinstance(value, float) else ""
            column.refuse(classes.rule, index, value, code="invalid-data", advice=advice)
    whole = [value for value in first if isinstance(value, int)]
    if len(whole) == len(first):
        return _of_whole_numbers(column, whole, first, classes)
    names = {value: str(value) for value in first}
    known = labels_of(list(dict.fromkeys(names.values())), classes.names, classes.number)
    if known is None and any(map(WHOLE_AS_TEXT.fullmatch, names.values())):
        # pandas writes whole numbers beside an absent one as `1.0`.
        names = {value: WHOLE_AS_TEXT.sub(r"\1", name) for value, name in names.items()}
        known = labels_of(list(dict.fromkeys(names.values())), classes.names, classes.number)
    if known is None and set(names.values()) <= {"True", "False"} and classes.number == 2:
        known = {"False": 0, "True": 1}
    if known is None:
        unknown = next(
            (value for value in first if labels_of([names[value]], classes.names, classes.number) is None),
            next(iter(first)),
        )
        advice = NO_NAMES if not classes.has_names and NAME.search(names[unknown]) else ""
        column.refuse(classes.rule, first[unknown], unknown, code="unknown-classes", advice=advice)
    return {value: known[name] for value, name in names.items()}


def _of_whole_numbers(
    column: LabelColumn, whole: Sequence[int], first: Mapping[Any, int], classes: Classes
) -> dict[Any, int]:
    """Numbers of classes; or names, where the model's classes have names such as `1` to `5`, or the table has names."""
    given = column.table.class_names.get(column.name)
    if given is not None and all(0 <= value < len(given) for value in whole):
        of_table = by_loose_name([given[value] for value in whole], classes.names, classes.number)
        if of_table is not None:
            return {value: of_table[given[value]] for value in whole}
    as_names = by_name([str(value) for value in whole], classes.names, classes.number)
    named = None if as_names is None else {value: as_names[str(value)] for value in whole}
    outside = [value for value in whole if not 0 <= value < classes.number]
    if not outside:
        plain = {value: value for value in whole}
        if named is not None and named != plain:
            column.refuse(
                "It must be clear whether labels are the names of classes or their numbers, counted from 0",
                first[whole[0]],
                whole[0],
                advice=" The model has classes with such names. Write the labels as numbers from 0 as text: "
                "`LABEL_0` for the first.",
            )
        return dict(plain)
    if named is not None:
        return named
    advice = " -1 often stands for a label that is held back, as in the test splits of GLUE." if -1 in outside else ""
    return column.refuse(classes.rule, first[outside[0]], outside[0], code="unknown-classes", advice=advice)


def _as_list(value: Any) -> list[Any] | None:
    """A list; one label alone; or a list that is written as JSON, as in a csv."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value.encode(errors="replace"))
        except ValueError:
            return [value]
    if isinstance(value, list):
        return value
    return None if value is None or isinstance(value, dict) else [value]


def _are_vectors(lists: Sequence[Sequence[Any]], length: int) -> bool:
    """Whether all are as long as there are classes, and have nothing but 0 and 1 in them."""
    return all(
        len(each) == length and all(isinstance(part, (bool, int, float)) and part in (0, 1) for part in each)
        for each in lists
    )


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    # float32, as the model's answer is.
    return number if math.isfinite(number) and abs(number) < torch.finfo(torch.float32).max else None
