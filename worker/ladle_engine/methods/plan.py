"""`auto`: which methods run, with which options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ladle_engine.errors import MethodError
from ladle_engine.methods.context import Plan
from ladle_engine.methods.registry import AUTO, AUTO_METHODS, METHODS
from ladle_engine.options import option, parse_options


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    methods: list[str] = option(list(AUTO_METHODS), "which methods to try; `best` always runs")
    options: dict[str, dict[str, Any]] = option({}, "options by method: {`twa`: {`steps`: 200}}")


def plan_methods(name: str, options: Mapping[str, Any]) -> Plan:
    """What runs, `best` always.

    Raises `MethodError` for a method, or an option of one, that does not exist.
    """
    if not isinstance(name, str):
        raise MethodError(
            "unknown-method", f"`method` must be a name, with its options in `method_options`, but is {name!r}."
        )
    if name == AUTO:
        auto = parse_options(
            AutoOptions, options, owner="method `auto`", error=MethodError, code="invalid-method-options"
        )
        wanted, given = auto.methods, dict[str, Any](auto.options)
    else:
        wanted, given = [name], {name: options}
    fields = ("methods", "options") if name == AUTO else ("method", "method")
    for field, method in [*((fields[0], each) for each in wanted), *((fields[1], each) for each in given)]:
        if method not in METHODS:
            known = list(METHODS) if name == AUTO else [AUTO, *METHODS]
            near = difflib.get_close_matches(str(method), known, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise MethodError(
                "unknown-method", f"`{field}` must be one of {', '.join(known)}, but is `{method}`.{hint}"
            )
    plan = _plan([method for method in METHODS if method == "best" or method in wanted], given)
    for method in given:
        if method not in plan.with_starts:
            raise MethodError(
                "invalid-method-options",
                f"`options` of method `{AUTO}` must be for methods that run, or that others start from, but is also "
                f"for `{method}`. Add it to `methods`.",
            )
    return plan


def _plan(methods: list[str], given: Mapping[str, Any]) -> Plan:
    """`given` are options by method, not parsed yet."""
    options: dict[str, Any] = {
        name: parse_options(
            method.options_type,
            given.get(name, {}),
            owner=f"method `{name}`",
            error=MethodError,
            code="invalid-method-options",
        )
        for name, method in METHODS.items()
    }
    needed = _with_starts(methods, options)
    groupings = (METHODS[name].grouping(options[name]) for name in sorted(needed))
    return Plan(
        methods=tuple(methods),
        options=options,
        with_starts=tuple(needed),
        groupings=tuple(grouping for grouping in groupings if grouping is not None),
        mixes=any(METHODS[name].mixes for name in needed),
        weight_vectors=max(METHODS[name].weight_vectors for name in needed),
    )


def _with_starts(methods: list[str], options: Mapping[str, Any]) -> list[str]:
    """The methods that run and, after them, those that they start from."""
    found: list[str] = []
    waiting = list(methods)
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            start = METHODS[name].starts_from(options[name])
            if start in METHODS:
                waiting.append(start)
    return found
