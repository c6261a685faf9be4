"""Declared options: a method or task says once what it takes; validation, the catalogue and the docs come from there.

@dataclass(frozen=True, kw_only=True)
class TwaOptions:
    steps: int = option(64, "gradient steps", at_least=1)
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from ladle_engine.errors import EngineError

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    one_of: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its help text and the range that is checked."""
    metadata = {"help": help, "at_least": at_least, "above": above, "at_most": at_most, "one_of": one_of}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@runtime_checkable
class ChecksItself(Protocol):
    """Options with rules between them."""

    def check(self, owner: str) -> None:
        """Raises an `EngineError` that names the owner, the option, the rule and the value."""
        ...


def parse_options(
    options_type: type[T], given: Mapping[str, Any], *, owner: str, error: type[EngineError], code: str
) -> T:
    """Builds `options_type` from JSON values. `owner` is for messages: "method `twa`".

    Raises `error`, and what the options' own `check` raises.
    """
    if not isinstance(given, Mapping):
        raise error(code, f"The options of {owner} must be given by name, but are {given!r}.")
    fields = {field.name: field for field in dataclasses.fields(options_type)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(options_type)
    for name, value in given.items():
        if name not in fields:
            known = ", ".join(f"`{known}`" for known in fields) or "none"
            raise error(
                code,
                f"`{name}` must be an option of {owner}, but it has no such option. It has: {known}."
                f"{did_you_mean(str(name), fields)}",
            )
        _check(name, value, hints[name], fields[name].metadata, owner=owner, error=error, code=code)
    values = {
        name: float(value) if hints[name] is float and isinstance(value, int) else value
        for name, value in given.items()
    }
    options = options_type(**values)
    if isinstance(options, ChecksItself):
        options.check(owner)
    return options


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """The end of a message, with a blank before it: the known names that are most like this one, whatever the case of
    letters, else one that this one is a part of. Empty where nothing is like it.
    """
    names = list(known)
    near = nearest(name, names, most=most, cutoff=cutoff)
    near = near or [each for each in names if name and name.casefold() in each.casefold()][:1]
    return f" Did you mean {' or '.join(f'`{each}`' for each in near)}?" if near else ""


def nearest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like this one, whatever the case of letters; the most alike first."""
    names = {each.casefold(): each for each in known}
    return [names[each] for each in difflib.get_close_matches(name.casefold(), names, n=most, cutoff=cutoff)]


def describe_options(options_type: type) -> tuple[dict[str, Any], ...]:
    """Name, type, default, help and choices of each option, as plain JSON values."""
    hints = typing.get_type_hints(options_type)
    described = []
    for field in dataclasses.fields(options_type):
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        described.append(
            {
                "name": field.name,
                "type": _type_name(hints[field.name]),
                "default": default,
                "help": str(field.metadata.get("help", "")),
                "choices": tuple(field.metadata.get("one_of") or ()),
            }
        )
    return tuple(described)


def _type_name(hint: Any) -> str:
    if hint is types.NoneType:
        return "null"
    if isinstance(hint, types.UnionType):
        return " | ".join(_type_name(arm) for arm in typing.get_args(hint))
    if typing.get_origin(hint) is not None:
        inner = ", ".join(_type_name(arm) for arm in typing.get_args(hint))
        return f"{typing.get_origin(hint).__name__}[{inner}]"
    return str(hint.__name__)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, arm) for arm in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, typing.get_args(hint)[1]) for item in value.values())
    if hint is Any:
        return True
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)


def _check(
    name: str,
    value: Any,
    hint: Any,
    rules: Mapping[str, Any],
    *,
    owner: str,
    error: type[EngineError],
    code: str,
) -> None:
    def fail(rule: str) -> None:
        raise error(code, f"`{name}` of {owner} must be {rule}, but is {value!r}.{advice}")

    advice = ""
    if not _fits(value, hint):
        advice = _as_json(name, hint) if isinstance(value, str) else ""
        fail(f"of type {_type_name(hint)}")
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        fail("a finite number that float64 can hold")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if rules.get("at_least") is not None and not value >= rules["at_least"]:
            fail(f"at least {rules['at_least']}")
        if rules.get("above") is not None and not value > rules["above"]:
            fail(f"above {rules['above']}")
        if rules.get("at_most") is not None and not value <= rules["at_most"]:
            fail(f"at most {rules['at_most']}")
    if rules.get("one_of") is not None and value is not None and value not in rules["one_of"]:
        advice = did_you_mean(str(value), rules["one_of"])
        fail("one of " + ", ".join(rules["one_of"]))


def _as_json(name: str, hint: Any) -> str:
    """How a list or an object is written where all values are texts, as on a command line. Empty for other types."""
    for arm in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        items = typing.get_args(arm)
        if items and typing.get_origin(arm) in (list, dict):
            item = "VALUE" if items[-1] is str else 0.5 if items[-1] is float else 1
            example = {"NAME": item} if typing.get_origin(arm) is dict else [item, item]
            return f" On a command line it is JSON in single quotes: '{name}={json.dumps(example)}'."
    return ""
