"""Options of a method or a task as a person types them. The type that a node publishes says how a text is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NUMBERS = {"int": (int,), "float": (int, float)}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "`true` or `false`",
    "null": "`null`",
    "Any": "anything",
}


class BadValue(ValueError):
    """The text is no value of its option. The message is the rule: `must be a whole number`."""


def read_value(text: str, of_type: str) -> Any:
    """The value that a text stands for: JSON, or text where text is allowed; `a, b` for a list, `a=1, b=2` for names
    with values. Raises `BadValue`."""
    arms = split_type(of_type)
    if arms == ["str"]:
        return text
    for value in _readings(text, arms):
        if any(fits(value, arm) for arm in arms):
            return value
    raise BadValue(f"must be {describe(of_type)}")


def write_value(value: Any, of_type: str) -> str:
    """The text that `read_value` reads as this value."""
    as_json = json.dumps(value, ensure_ascii=False)
    for text in _plain_texts(value):
        try:
            if same(read_value(text, of_type), value):
                return text
        except BadValue:
            continue
    return as_json


def describe(of_type: str) -> str:
    """The type in words: `a whole number or text`. That it may be null goes without saying: most are by default."""
    arms = [arm for arm in split_type(of_type) if arm != "null"] or ["null"]
    return " or ".join(dict.fromkeys(map(_describe, arms)))


def split_type(of_type: str) -> list[str]:
    """`int | list[str | int]` as `int` and `list[str | int]`."""
    arms, depth = [""], 0
    for char in of_type:
        depth += (char == "[") - (char == "]")
        if char == "|" and depth == 0:
            arms.append("")
        else:
            arms[-1] += char
    return [arm.strip() for arm in arms]


def fits(value: Any, arm: str) -> bool:
    """Whether a JSON value is of a type. Whatever is not known here fits: the node checks it again."""
    outer, _, inner = arm.partition("[")
    inner = inner.removesuffix("]")
    if outer == "list":
        return isinstance(value, list) and all(_fits_any(each, inner) for each in value)
    if outer == "dict":
        values = inner.partition(",")[2].strip()
        return isinstance(value, dict) and all(_fits_any(each, values) for each in value.values())
    if arm in ("null", "bool"):
        return value is None if arm == "null" else isinstance(value, bool)
    if arm in _NUMBERS:
        return isinstance(value, _NUMBERS[arm]) and not isinstance(value, bool)
    return isinstance(value, str) if arm == "str" else True


def number(text: str) -> int | float | str:
    """A finite number as it is written; any other text as it is, for a rule that says what it must be."""
    value = _json(text)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def named(text: str, separators: str = "\n") -> dict[str, str]:
    """`a=1` and `b=2` by name. Raises `BadValue`."""
    found: dict[str, str] = {}
    for part in parts(text, separators):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise BadValue(f"must be NAME=VALUE, but one is {json.dumps(part, ensure_ascii=False)}")
        if name.strip() in found:
            raise BadValue(f"must have each name once, but `{name.strip()}` stands there twice")
        found[name.strip()] = value.strip()
    return found


def parts(text: str, separators: str = "\n") -> list[str]:
    """What stands between separators, without what is empty."""
    return [part.strip() for part in re.split(f"[{separators}\r]", text) if part.strip()]


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 and True differ."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _fits_any(value: Any, of_type: str) -> bool:
    return any(fits(value, arm) for arm in split_type(of_type))


def _readings(text: str, arms: Sequence[str]) -> Iterator[Any]:
    """What a text may mean, the likeliest first."""
    value = _json(text)
    if value is not _NOTHING:
        yield value
    kinds = set() if "str" in arms else {arm.partition("[")[0] for arm in arms}
    if "list" in kinds:
        items = parts(text, ",\n")
        yield items
        yield [number(item) for item in items]
    if "dict" in kinds and "=" in text:
        pairs = named(text, ",\n")
        yield pairs
        yield {name: number(value) for name, value in pairs.items()}
    yield text


def _plain_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    if isinstance(value, list) and value:
        yield ", ".join(_plain(each) for each in value)
    if isinstance(value, Mapping) and value:
        yield "\n".join(f"{name}={_plain(each)}" for name, each in value.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_NOTHING = object()


def _json(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return _NOTHING


def _finite(text: str) -> float:
    if float(text) in (float("inf"), float("-inf")):
        raise ValueError(text)
    return float(text)


def _describe(arm: str) -> str:
    outer, _, inner = arm.partition("[")
    if outer == "list":
        return f"a list of {_plural(inner.removesuffix(']'))}"
    if outer == "dict":
        return "names with a value each, as NAME=VALUE"
    return _WORDS.get(arm, "a value")


def _plural(of_type: str) -> str:
    words = {"int": "whole numbers", "float": "numbers", "str": "texts"}
    return words.get(of_type, "lists" if of_type.startswith("list") else "values")
