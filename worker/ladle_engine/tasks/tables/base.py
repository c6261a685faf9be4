"""What a table is: rows by index and columns by name, whatever the file's format and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

TEXT = "text"
WHOLE = "whole number"
NUMBER = "number"
TRUTH = "true or false"
BYTES = "bytes"
IMAGE = "image"
"""An object with the encoded image as `bytes`, or a `path`, as the `Image` feature of datasets stores it."""
OBJECT = "object"
TEXTS = f"list of {TEXT}"
WHOLES = f"list of {WHOLE}"
NUMBERS = f"list of {NUMBER}"
OBJECTS = f"list of {OBJECT}"
NOTHING = "nothing"
"""Of a column without any value."""
OR = " or "
"""Between the kinds of a column that has values of several ones."""


class Table(Protocol):
    """Rows of a data set. What is read is bounded, however large the files are."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Name -> kind, in words: one of the constants above, several with "or", or another format's own name."""
        ...

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        """Column -> the names of its whole numbers, where the file has them (the `ClassLabel` feature of datasets)."""
        ...

    @property
    def remarks(self) -> Sequence[str]:
        """What the user should be told; each becomes a warning."""
        ...

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Plain Python values by column, in the order of the indices. None where a row has no value.

        Raises `DataError` (invalid-data) that names the place, and `EngineError` (inputs-changed).
        """
        ...

    def place(self, index: int) -> str:
        """For messages: `` `train.jsonl`, line 12 ``."""
        ...


KINDS: Mapping[type, str] = {
    type(None): NOTHING, bool: TRUTH, str: TEXT, int: WHOLE, float: NUMBER, bytes: BYTES
}  # fmt: skip


def kind_of(value: Any) -> str:
    """The kind of one Python value, in words."""
    if isinstance(value, dict):
        return IMAGE if is_image(value) else OBJECT
    if isinstance(value, list):
        return f"list of {_kind_of_items(value)}"
    return KINDS.get(type(value)) or type(value).__name__


def _kind_of_items(values: list[Any]) -> str:
    """Several kinds with "and"."""
    types = set(map(type, values))
    simple = {KINDS[each] for each in types if each in KINDS}
    others = {kind_of(each) for each in values if type(each) not in KINDS} if len(simple) < len(types) else set()
    return " and ".join(joined_kinds(simple | others).split(OR))


def is_image(names: Any) -> bool:
    """Whether an object of these names is an image of datasets."""
    return set(names) == {"bytes", "path"}


def joined_kinds(kinds: set[str]) -> str:
    """One kind for values of several ones. Whole numbers are numbers, and nothing is of any kind."""
    found = kinds - {NOTHING}
    if NUMBER in found:
        found -= {WHOLE}
    return OR.join(sorted(found)) or NOTHING
