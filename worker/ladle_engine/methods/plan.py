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
    plan = Plan(
        methods=tuple(method for method in METHODS if method == "best" or method in wanted),
        options={
            method: parse_options(
                METHODS[method].options_type,
                given.get(method, {}),
                owner=f"method `{method}`",
                error=MethodError,
                code="invalid-method-options",
            )
            for method in METHODS
        },
    )
    for method in given:
        if method not in plan.with_starts():
            raise MethodError(
                "invalid-method-options",
                f"`options` of method `{AUTO}` must be for methods that run or that others start from, but is for "
                f"`{method}` too. Name it in `methods` as well.",
            )
    return plan
