"""Refuses what pydantic accepts but JSON does not have: NaN, infinity, and a name that occurs twice."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn


class NotJson(ValueError):
    """Says what is wrong, without any of the text itself."""


def check_json(text: bytes) -> None:
    """Raises NotJson unless the text is JSON according to RFC 8259, with unique names."""
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
        raise NotJson("a name occurs twice in one object")
    return names
