"""JSON of strangers, bounded before it is parsed: a small text may become a thousand times as many objects."""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 32 << 20
"""Of a file. The index of a model of 100,000 tensors has some 10 MB."""
MAX_VALUES = 2_000_000
"""Each takes some 100 bytes of memory."""
MAX_DEPTH = 64
"""What is nested deeper ends functions that call themselves."""
BEFORE_VALUES = b",[{"


def parse_json(
    content: bytes, *, most_bytes: int = MAX_BYTES, most_values: int = MAX_VALUES, unique: bool = False
) -> Any:
    """Raises `ValueError`, whose text goes on from "does not parse". With `unique` no object may have a name twice.

    A number of more digits than Python reads is an error too.
    """
    if len(content) > most_bytes:
        raise ValueError(f"it has {len(content):,} bytes, of {most_bytes:,} at most")
    values = sum(content.count(each) for each in BEFORE_VALUES)
    if values > most_values:
        raise ValueError(f"it has some {values:,} values, of {most_values:,} at most")
    try:
        parsed = json.loads(content, object_pairs_hook=_unique if unique else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH:
        _refuse_deep(parsed)
    return parsed


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it has `{twice}` twice")
    return found


def _refuse_deep(parsed: Any) -> None:
    level = [parsed]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (list, dict))]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
