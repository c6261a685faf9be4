"""What pydantic takes and JSON does not have: NaN, infinity, a name twice. It would be stored as null, or half."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn


class NotJson(ValueError):
    """Says what is wrong; holds nothing of the text itself."""


def check_json(text: bytes) -> None:
    """NotJson unless the text is JSON as RFC 8259 has it, with unique names."""
    try:
        json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
    except NotJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson("it cannot be parsed") from error


def _refuse_constant(_: str) -> NoReturn:
    raise NotJson("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson("a number is too large")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise NotJson("a name stands twice in one object")
    return names
