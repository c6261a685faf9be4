"""Which methods run, with which options; and what is refused before any of them does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ladle_engine.errors import MethodError
from ladle_engine.methods.base import TrainedMethod
from ladle_engine.methods.context import Plan
from ladle_engine.methods.fixed import Best
from ladle_engine.methods.registry import AUTO, AUTO_METHODS, BASE_METHODS, METHODS
from ladle_engine.methods.starts import CENTRE, ONE_WEIGHT, OUTPUTS, PICKED, SOUP, bad_start
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups, group, whole_model
from ladle_engine.options import did_you_mean, option, parse_options
from ladle_engine.tasks.base import Task
from ladle_engine.tasks.guard import gives_logits


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    methods: list[str] = option(list(AUTO_METHODS), "which methods to try; `best` always runs")
    options: dict[str, dict[str, Any]] = option({}, "options by method: {`twa`: {`steps`: 200}}")


def plan_methods(name: str, options: Mapping[str, Any], *, has_base: bool = False) -> Plan:
    """What runs, `best` always. Of checkpoints with a base, `auto` also runs what needs one, unless it is told.

    Raises `MethodError` for a method, or an option of one, that does not exist.
    """
    if not isinstance(name, str):
        raise MethodError(
            "unknown-method", f"`method=` must be a name, with its options in `method_options=`, but is {name!r}."
        )
    if name == AUTO:
        auto = parse_options(
            AutoOptions, options, owner="method `auto`", error=MethodError, code="invalid-method-options"
        )
        more = BASE_METHODS if has_base and "methods" not in options else ()
        wanted, given = [*auto.methods, *more], dict[str, Any](auto.options)
    else:
        wanted, given = [name], {name: options}
    fields = ("methods", "options") if name == AUTO else ("method=", "method=")
    for field, method in [*((fields[0], each) for each in wanted), *((fields[1], each) for each in given)]:
        if method not in METHODS:
            known = list(METHODS) if name == AUTO else [AUTO, *METHODS]
            hint = did_you_mean(str(method), known)
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
    asked = [name for name in methods if name != Best.name]
    groupings = (METHODS[name].grouping(options[name]) for name in sorted(needed))
    return Plan(
        methods=tuple(methods),
        options=options,
        with_starts=tuple(needed),
        groupings=tuple(grouping for grouping in groupings if grouping is not None),
        mixes=any(METHODS[name].mixes for name in needed),
        keeps_outputs=OUTPUTS in needed
        or (SOUP in needed and any(METHODS[name].starts_from(options[name]) == PICKED for name in needed)),
        weight_vectors=max(METHODS[name].weight_vectors for name in needed),
        uses_base=any(METHODS[name].uses_base(options[name]) for name in needed),
        needs_order=bool(asked) and all(METHODS[name].goes_by_order(options[name]) for name in asked),
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


def refuse_bad_starts(plan: Plan, checkpoint_names: Sequence[str]) -> None:
    """Raises `MethodError` for a `start` that is no checkpoint and no method, or that leads back to where it began."""
    for name in plan.with_starts:
        passed = [name]
        while (start := _start(plan, passed[-1])) not in (None, CENTRE, PICKED, *checkpoint_names):
            assert start is not None
            _refuse_start(plan, passed[-1], start, checkpoint_names)
            if start in passed:
                _refuse_circle(passed[passed.index(start) :])
            passed.append(start)


def refuse_missing_logits(plan: Plan, task: Task) -> None:
    """Raises `MethodError` where a method combines what the checkpoints put out, and the task does not say what that
    is."""
    if OUTPUTS in plan.with_starts and not gives_logits(task):
        raise MethodError(
            "invalid-method-options",
            f"Method `{OUTPUTS}` must have a task whose loss is convex in what a model puts out, such as the "
            f"classification of images, texts or words, but the task is `{task.name}`. Leave the method out.",
        )


def refuse_bad_options(plan: Plan, binding: Binding, checkpoint_names: Sequence[str]) -> None:
    """Raises `MethodError` for options that cannot work with these checkpoints or this model."""
    for name in plan.with_starts:
        try:
            METHODS[name].check(plan.options[name], binding, checkpoint_names)
        except MethodError as error:
            if name in plan.methods:
                raise
            starter = next(other for other in plan.with_starts if _start(plan, other) == name)
            raise MethodError(
                error.code,
                f"Method `{starter}` starts from `{name}`, whose options go into `options` of `auto`. {error.message}",
            ) from error
        start = _start(plan, name)
        if start is not None and start not in checkpoint_names and start in METHODS:
            _refuse_finer(plan, name, start, binding)


def _refuse_finer(plan: Plan, name: str, start: str, binding: Binding) -> None:
    """A group cannot start from several groups of a trained method, which have weights of their own."""
    if not isinstance(METHODS[start], TrainedMethod):
        return
    own, theirs = _groups(plan, name, binding), _groups(plan, start, binding)
    pairs = {(own.of[tensor], theirs.of[tensor]) for tensor in binding.floating}
    for index, group_name in enumerate(own.names):
        if len([pair for pair in pairs if pair[0] == index]) > 1:
            raise bad_start(name, ONE_WEIGHT, f"`{start}` with several in the group `{group_name}`")


def _start(plan: Plan, name: str) -> str | None:
    return METHODS[name].starts_from(plan.options[name])


def _groups(plan: Plan, name: str, binding: Binding) -> Groups:
    grouping = METHODS[name].grouping(plan.options[name])
    return whole_model(binding) if grouping is None else group(binding, grouping)


def _refuse_start(plan: Plan, method: str, start: str, checkpoint_names: Sequence[str]) -> None:
    if start == method:
        raise bad_start(
            method, f"be {CENTRE}, {PICKED}, the name of a checkpoint, or another method", "the method itself"
        )
    if start in METHODS:
        if not _can_be_start(plan, start):
            raise bad_start(method, "be a combination of checkpoints and nothing else", f"`{start}`, which is more")
        return
    methods = [name for name in METHODS if name != method and _can_be_start(plan, name)]
    known = [PICKED, *checkpoint_names, *methods]
    begun = [name for name in known if name.startswith(start)]
    raise bad_start(
        method,
        f"be {CENTRE}, {PICKED}, the name of a checkpoint, or one of {', '.join(methods)}",
        f"`{start}`",
        did_you_mean(start, begun[:1] or known),
    )


def _can_be_start(plan: Plan, name: str) -> bool:
    return METHODS[name].combines_checkpoints and not METHODS[name].uses_base(plan.options[name])


def _refuse_circle(methods: Sequence[str]) -> None:
    steps = ", ".join(f"`{one}` from `{next}`" for one, next in zip(methods, [*methods[1:], methods[0]], strict=True))
    raise MethodError("invalid-method-options", f"`start` must not lead back to its own method, but these do: {steps}.")
