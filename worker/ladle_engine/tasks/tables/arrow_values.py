"""What arrow and parquet have in common: kinds and class names from a schema, and Python values within bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladle_engine.errors import DataError, EngineError
from ladle_engine.storage.json_text import parse_json
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.tables.base import BYTES, IMAGE, NOTHING, NUMBER, OBJECT, TEXT, TRUTH, WHOLE, Table, is_image

MAX_ASKED_BYTES = 1 << 30
"""Of the rows that are asked for together. A dictionary repeats a long text in few bytes."""
TEXT_CHARS = 300
"""Of what a library says."""
SMALL_ROWS = 10_000_000
MAX_ROWS_PER_BYTE = 1_000
"""A table of more rows than the first has at least a byte for so many: equal values take next to none."""
_FAULTS = (ValueError, OverflowError, NotImplementedError)
"""What pyarrow raises for a value that Python has not: text that is not UTF-8, a day of the year 6,000,000."""
FEATURES_KEY = b"huggingface"
"""Where datasets keeps its features in a schema's metadata."""


def pyarrow() -> Any:
    """Raises `TaskError` (missing-library)."""
    return require("pyarrow", "text")


@contextmanager
def translated(path: Path, kind: str) -> Iterator[None]:
    """Inside, what arrow and we raise for a damaged file becomes `DataError` (invalid-data) that names it."""
    try:
        yield
    except (EngineError, MemoryError):
        raise
    except (ValueError, KeyError, OSError, NotImplementedError, TypeError, pyarrow().ArrowException) as error:
        text = " ".join(str(error).split())[:TEXT_CHARS].rstrip(".")
        raise DataError("invalid-data", f"`{path}` must be {kind}, but does not read: {text}.") from error


def kinds_of(schema: Any, path: Path) -> Mapping[str, str]:
    """Column -> kind. Raises `DataError` for two columns of one name, and for none."""
    names = list(schema.names)
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None or not names:
        found = "it has none" if twice is None else f"`{twice}` stands {names.count(twice)} times"
        raise DataError("invalid-data", f"Every column of `{path}` must have a name of its own, but {found}.")
    return {field.name: kind_of_type(field.type) for field in schema}


def kind_of_type(stored: Any) -> str:
    """In words; a type that has none keeps arrow's own name."""
    types = pyarrow().types
    if hasattr(stored, "storage_type"):
        return kind_of_type(stored.storage_type)
    if types.is_dictionary(stored):
        return kind_of_type(stored.value_type)
    if types.is_struct(stored):
        return IMAGE if is_image(field.name for field in stored) else OBJECT
    if _is_list(stored):
        return f"list of {kind_of_type(stored.value_type)}"
    return next((kind for kind, is_one in _simple_kinds() if is_one(stored)), str(stored))


def has_dictionary(stored: Any) -> bool:
    """Whether a type is one of numbers that stand for values, or has such inside."""
    if pyarrow().types.is_dictionary(stored):
        return True
    return any(has_dictionary(stored.field(number).type) for number in range(stored.num_fields))


def _simple_kinds() -> Sequence[tuple[str, Callable[[Any], bool]]]:
    types = pyarrow().types
    return (
        *((TEXT, each) for each in (types.is_string, types.is_large_string, types.is_string_view)),
        *((BYTES, each) for each in (types.is_binary, types.is_large_binary, types.is_binary_view)),
        (BYTES, types.is_fixed_size_binary),
        (TRUTH, types.is_boolean),
        (WHOLE, types.is_integer),
        (NUMBER, types.is_floating),
        (NOTHING, types.is_null),
    )


def _is_list(stored: Any) -> bool:
    types = pyarrow().types
    names = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(types, f"is_{name}")(stored) for name in names)


def class_names_of(schema: Any) -> Mapping[str, Sequence[str]]:
    """Column -> the names of its classes, also of lists of classes, where datasets wrote them."""
    try:
        described = parse_json((schema.metadata or {}).get(FEATURES_KEY, b"{}"))
    except ValueError:
        # Whatever another program keeps under this name.
        return {}
    return class_names_in(_inside(_inside(described, "info"), "features"))


def class_names_in(features: Any) -> Mapping[str, Sequence[str]]:
    """Of the features of datasets, as JSON."""
    if not isinstance(features, dict):
        return {}
    found = {column: _names_in(feature) for column, feature in features.items()}
    return {column: names for column, names in found.items() if names}


def _names_in(feature: Any) -> Sequence[str]:
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = _inside(feature, "names")
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if fits and _inside(feature, "_type") == "ClassLabel" else ()


def _inside(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def rows_of(
    table: Table, indices: Sequence[int], columns: Sequence[str], block_of: Callable[[int], tuple[int, Any]]
) -> list[dict[str, Any]]:
    """Rows as Python values, in the order of the indices.

    `block_of` gives the arrow table that holds a row, and its first row. Raises `DataError` (invalid-data).
    """
    found: dict[int, dict[str, Any]] = {}
    wanted = sorted(set(indices))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(table):
        raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {len(table)}")
    if not columns:
        return [{} for _ in indices]
    size = 0
    while wanted:
        first, block = block_of(wanted[0])
        here = wanted[: bisect_left(wanted, first + len(block))]
        for start, count in _runs(here):
            part = block.slice(start - first, count)
            size += sum(_expanded_bytes(chunk) for column in part.columns for chunk in column.chunks)
            refuse_large(size, table.place(start))
            found.update(zip(range(start, start + count), _python_rows(part, start, table), strict=True))
        wanted = wanted[len(here) :]
    return [dict(found[index]) for index in indices]


def refuse_absurd(count: int, num_bytes: int, of: str) -> None:
    """Raises `ValueError` for more rows or values than so many bytes hold."""
    if count > max(SMALL_ROWS, MAX_ROWS_PER_BYTE * num_bytes):
        raise ValueError(f"it declares {count:,} {of}, which {num_bytes:,} bytes cannot hold")


def refuse_large(num_bytes: int, place: str) -> None:
    """Raises `DataError` for rows that take too much memory together."""
    if num_bytes > MAX_ASKED_BYTES:
        raise DataError(
            "invalid-data",
            f"The rows of a batch must have at most {MAX_ASKED_BYTES:,} bytes together, but by {place} they have "
            f"{num_bytes:,}.",
        )


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and length of consecutive numbers: arrow takes slices of every type, and single rows of some types only."""
    start = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[end - 1] + 1:
            yield indices[start], end - start
            start = end


def _python_rows(rows: Any, first: int, table: Table) -> list[dict[str, Any]]:
    try:
        return _converted(rows)
    except _FAULTS:
        # Row by row, to say which.
        for row in range(len(rows)):
            try:
                _converted(rows.slice(row, 1))
            except _FAULTS as error:
                how = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"no value ({error})"
                raise DataError(
                    "invalid-data",
                    f"Every value must be one of its column's type, but {table.place(first + row)} has {how}.",
                ) from error
        raise


def _converted(rows: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def _expanded_bytes(array: Any) -> int:
    """Of an array once each value of its dictionary stands wherever it is used."""
    arrow = pyarrow()
    if not arrow.types.is_dictionary(array.type):
        return int(array.nbytes)
    compute = require("pyarrow.compute", "text")
    try:
        lengths = compute.binary_length(array.dictionary)
    except arrow.ArrowNotImplementedError:
        return int(array.nbytes)
    return int(compute.sum(lengths.take(array.indices)).as_py() or 0)
