"""What pydantic found wrong with a model, in Ladle's words: a field, the rule that it breaks, and its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import JsonValue

from ladle_contracts.field_types import OF_TWO_KINDS, PATTERNS

_RULES: dict[str, str | Callable[[Mapping[str, Any]], str]] = {
    "missing": "must be given",
    "extra_forbidden": "must be left out, because there is no such field",
    "greater_than_equal": lambda context: f"must be at least {_number(context['ge'])}",
    "greater_than": lambda context: f"must be above {_number(context['gt'])}",
    "less_than_equal": lambda context: f"must be at most {_number(context['le'])}",
    "less_than": lambda context: f"must be below {_number(context['lt'])}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be text",
    "string_too_short": lambda context: _at_least(context["min_length"], "characters"),
    "string_too_long": lambda context: f"must have at most {context['max_length']} characters",
    "string_pattern_mismatch": lambda context: PATTERNS.get(context["pattern"], f"must match {context['pattern']}"),
    "too_short": lambda context: _at_least(context["min_length"], "entries"),
    "too_long": lambda context: f"must have at most {context['max_length']} entries",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "literal_error": lambda context: f"must be {context['expected']}".replace("'", "`"),
}
"""pydantic's type of error -> the rule. Any other type keeps pydantic's own words."""


@dataclass(frozen=True, kw_only=True)
class BrokenRule:
    """One thing that is wrong with a model."""

    field: str
    """The path inside the model, such as `checkpoints.last`; empty for a rule about the model as a whole."""
    rule: str
    """`must be at least 1`"""
    value: JsonValue = None
    """What was given. A compound value is left out, and so is an unknown field's, which may be anything."""
    has_value: bool = False

    def describe(self, show: Callable[[JsonValue], str] = repr) -> str:
        """`must be at least 1, but is 0`"""
        return f"{self.rule}, but is {show(self.value)}" if self.has_value else self.rule


class HasErrors(Protocol):
    """pydantic's ValidationError, and FastAPI's error that is made of it."""

    def errors(self) -> Sequence[Any]: ...


def broken_rules(error: HasErrors) -> list[BrokenRule]:
    """Every rule that was broken, in the order of the fields."""
    return [_broken_rule(item) for item in error.errors()]


def _broken_rule(item: Mapping[str, Any]) -> BrokenRule:
    value = item.get("input")
    is_plain = value is None or isinstance(value, (str, int, float, bool))
    has_value = is_plain and item["type"] not in ("missing", "extra_forbidden")
    return BrokenRule(
        # pydantic adds `[key]` where a name inside an object is wrong. The name itself is before it.
        field=".".join(str(part) for part in _without_tag(item["loc"]) if part != "[key]"),
        rule=_rule(item),
        value=value if has_value else None,
        has_value=has_value,
    )


def _without_tag(place: Sequence[Any]) -> Sequence[Any]:
    """Of a value that may be of two kinds, pydantic says after its field as which it was read."""
    return [*place[:1], *place[2:]] if place and place[0] in OF_TWO_KINDS else place


def _rule(item: Mapping[str, Any]) -> str:
    context = item.get("ctx", {})
    if item["type"] == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    rule = _RULES.get(item["type"], item["msg"].replace("Input should", "must"))
    return rule if isinstance(rule, str) else rule(context)


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _at_least(count: int, unit: str) -> str:
    return "must not be empty" if count == 1 else f"must have at least {count} {unit}"
