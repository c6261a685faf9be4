"""Finds the checkpoints in a folder: those that are wanted, each once and in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ladle_engine.checkpoints.duplicates import each_once
from ladle_engine.checkpoints.files import PICKLE_SUFFIXES, Candidate, PassedOver, refuse_unreadable
from ladle_engine.checkpoints.filters import Filters
from ladle_engine.checkpoints.folder_scan import scan
from ladle_engine.checkpoints.order import Order, arrange, listed
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.side_files import read_config, side_files
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.checkpoints.unlike_names import mixed_averages, refuse_parts
from ladle_engine.errors import CheckpointError
from ladle_engine.progress import ProgressCallback, Warned
from ladle_engine.storage.input_paths import entries_of, is_folder

MOST_NAMES = 5
"""Of one reason, in a message."""


def discover(
    folder: Path,
    *,
    pattern: str | None = None,
    exclude: str | Sequence[str] | None = None,
    last: int | None = None,
    steps: Sequence[int | float] | None = None,
    order: str = "auto",
    names: Sequence[str] | None = None,
) -> CheckpointSet:
    """Reads names and headers, and whole files only of checkpoints that may be copies of each other.

    Args:
        pattern: a glob on the checkpoint's name, which is its path relative to the folder.
        exclude: a glob, or several, of names to leave out.
        last: only the last n in order, after copies are left out.
        steps: only these steps; a missing one is an error.
        order: `auto`, which reads it from the names; `step`, `epoch`, `name`, or `modified` (time of the last change).
        names: these checkpoints, in this order; a missing one is an error. The other conditions do not count then.

    Raises:
        CheckpointError: none, too few, unreadable, corrupt or unsafe; or `last` needs an order that the names leave
            open.
        ValueError: an argument breaks its own rule.
    """
    filters = Filters(pattern=pattern, exclude=exclude, last=last, steps=steps, order=order)
    if not is_folder(folder):
        raise CheckpointError("no-checkpoints", f"`ckpt_dir=` must be a folder, but `{folder}` is not.")
    candidates, passed_over = scan(folder)
    if names is not None:
        chosen = [_named(name, candidates, passed_over, folder) for name in names]
        return _opened(folder, Order(checkpoints=tuple(each.checkpoint for each in chosen), reason="name"), chosen)
    idle = _idle(filters, folder, [each.checkpoint.name for each in candidates] + [each.name for each in passed_over])
    passed_over = [each for each in passed_over if filters.wants(each.name)]
    wanted = [each.checkpoint for each in candidates if filters.wants(each.checkpoint.name)]
    if not wanted:
        raise _nothing(folder, filters, candidates, passed_over)
    # What is refused, such as a link that leads out, is not opened.
    refused = {each.checkpoint.name for each in candidates if each.refusal is not None}
    once = each_once(_at_steps(wanted, filters, folder), order, unopened=refused)
    ordered = _last(arrange(once.checkpoints, order), last)
    if len(ordered.checkpoints) < 2:
        raise _too_few(folder, ordered.checkpoints, len(candidates), passed_over)
    found = _opened(folder, ordered, candidates)
    refuse_parts(found.names)
    passed = [f"Passed over in `{folder}`: {with_reasons(passed_over)}."] if passed_over else []
    return replace(
        found,
        warnings=(*idle, *passed, *once.warnings, *mixed_averages(found.names), *found.warnings),
        identical=once.identical,
    )


def _last(order: Order, last: int | None) -> Order:
    if last is None or last >= len(order.checkpoints):
        return order
    if order.doubt:
        raise CheckpointError("ambiguous-order", order.doubt)
    return replace(order, checkpoints=order.checkpoints[-last:])


def announce(checkpoints: CheckpointSet, on_event: ProgressCallback, *, order_matters: bool) -> None:
    """Says what was passed over and why, once.

    Raises `CheckpointError` (ambiguous-order) where the order matters and the names leave it open.
    """
    for warning in checkpoints.warnings:
        on_event(Warned(message=warning))
    if checkpoints.doubt is None:
        return
    if order_matters:
        raise CheckpointError("ambiguous-order", checkpoints.doubt)
    on_event(Warned(message=f"{checkpoints.doubt} They are taken by {checkpoints.order}."))


def _opened(folder: Path, order: Order, candidates: Sequence[Candidate]) -> CheckpointSet:
    """The set, with what the reference says about all. Raises `CheckpointError` for what cannot be used."""
    refusals = {each.checkpoint.name: each.refusal for each in candidates if each.refusal is not None}
    for checkpoint in order.checkpoints:
        if checkpoint.name in refusals:
            raise refusals[checkpoint.name]
        for path in checkpoint.files:
            refuse_unreadable(path)
    reference = order.checkpoints[-1]
    home = reference.home_in(folder)
    with open_checkpoint(reference) as reader:
        tensors = dict(reader.tensors())
    beside, config = side_files(folder, home), read_config(folder, home)
    return CheckpointSet(
        folder=folder,
        checkpoints=order.checkpoints,
        tensors=tensors,
        config=None if config is None else config.values,
        read={} if config is None else {config.path: config.sha256},
        side_files=beside.paths,
        home=home,
        order=order.reason,
        doubt=order.doubt,
        warnings=(f"Not copied to the result: {', '.join(beside.left_out)}.",) if beside.left_out else (),
    )


def _named(name: str, candidates: Sequence[Candidate], passed_over: Sequence[PassedOver], folder: Path) -> Candidate:
    found = next((each for each in candidates if each.checkpoint.name == name), None)
    if found is None:
        why = next((f": it is {each.reason}" for each in passed_over if each.name == name), "")
        raise CheckpointError(
            "no-checkpoints", f"`ckpt_dir=` must hold the checkpoint `{name}`, but `{folder}` does not{why}."
        )
    return found


def _at_steps(wanted: Sequence[Checkpoint], filters: Filters, folder: Path) -> list[Checkpoint]:
    if filters.steps is None:
        return list(wanted)
    step_of = {each.name: each.step for each in arrange(wanted, filters.order).checkpoints}
    present = sorted({step for step in step_of.values() if step is not None})
    if missing := [step for step in filters.steps if step not in present]:
        raise CheckpointError(
            "no-checkpoints",
            f"`steps=` must be steps of checkpoints in `{folder}`, but {missing[0]} is none. There are: "
            f"{', '.join(map(str, present)) or 'none'}.",
        )
    return [each for each in wanted if step_of[each.name] in filters.steps]


def _idle(filters: Filters, folder: Path, names: Iterable[str]) -> list[str]:
    """Says where `exclude` does nothing, perhaps misspelt."""
    globs = filters.idle([*names, *(entry.name for entry in entries_of(folder))])
    return [f"`exclude=` leaves nothing out: no name in `{folder}` matches `{glob}`." for glob in globs]


def _nothing(
    folder: Path, filters: Filters, candidates: Sequence[Candidate], passed_over: Sequence[PassedOver]
) -> CheckpointError:
    passed = f" Passed over: {with_reasons(passed_over)}." if passed_over else ""
    if candidates:
        there = [each.checkpoint for each in candidates]
        matched = any(filters.matches(each.name) for each in there)
        rule = (
            f"`exclude=` must leave some checkpoints of `{folder}`, but leaves none of"
            if matched
            else f"`pattern=` must match a checkpoint in `{folder}`, but `{filters.pattern}` matches none of"
        )
        return CheckpointError("no-checkpoints", f"{rule}: {listed(there)}.{passed}")
    entries = [entry.name for entry in entries_of(folder)]
    holds = f" It holds: {_several(entries)}." if entries else " It is empty."
    return CheckpointError(
        "no-checkpoints",
        f"`ckpt_dir=` must hold checkpoints (*.safetensors, {', '.join('*' + suffix for suffix in PICKLE_SUFFIXES)}, "
        f"or folders such as checkpoint-100/), but `{folder}` holds none.{passed}{holds}",
    )


def _too_few(
    folder: Path, chosen: Sequence[Checkpoint], found: int, passed_over: Sequence[PassedOver]
) -> CheckpointError:
    of = "" if len(chosen) == found else f" of {found} that `pattern=`, `exclude=`, `steps=` and `last=` leave"
    passed = f" Passed over: {with_reasons(passed_over)}." if passed_over else ""
    return CheckpointError(
        "too-few-checkpoints",
        f"`ckpt_dir=` must hold at least 2 checkpoints to average, but `{folder}` holds {len(chosen)}{of}: "
        f"{listed(chosen)}.{passed}",
    )


def with_reasons(passed_over: Sequence[PassedOver]) -> str:
    """`a`, `b` (reason); `c` (another)."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for each in passed_over:
        by_reason[each.reason].append(each.name)
    return "; ".join(f"{_several(names)} ({reason})" for reason, names in by_reason.items())


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(f"`{name}`" for name in names[:MOST_NAMES]) + more
