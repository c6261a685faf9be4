"""Finds the checkpoints in a folder: those that are wanted, each once and in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ladle_engine.checkpoints.architectures import those_like
from ladle_engine.checkpoints.duplicates import Once, each_once
from ladle_engine.checkpoints.files import PICKLE_SUFFIXES, Candidate, PassedOver, refuse_unreadable
from ladle_engine.checkpoints.filters import Filters
from ladle_engine.checkpoints.folder_scan import find, scan
from ladle_engine.checkpoints.layouts.components import is_of
from ladle_engine.checkpoints.left_out import Globs, LeftOut, leave_out, named, some, told
from ladle_engine.checkpoints.name_parts import names_a_time
from ladle_engine.checkpoints.order import Order, arrange, listed
from ladle_engine.checkpoints.readers import keeping_files_open, open_checkpoint
from ladle_engine.checkpoints.side_files import places_of, read_config, side_files
from ladle_engine.checkpoints.sources import CkptDir, Sources, no_folder, sources_of
from ladle_engine.checkpoints.stand_ins import with_stand_ins
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.checkpoints.unlike_configs import unlike_configs
from ladle_engine.checkpoints.unlike_names import refuse_parts, unlike_by_name
from ladle_engine.errors import CheckpointError
from ladle_engine.progress import ProgressCallback, Warned
from ladle_engine.storage.input_paths import entries_of, is_folder

MOST_NAMES = 5
"""Of one reason, in a message."""


@keeping_files_open()
def discover(  # noqa: PLR0913  # one argument per option, as in `average`
    ckpt_dir: CkptDir,
    *,
    pattern: str | None = None,
    exclude: str | Sequence[str] | None = None,
    last: int | None = None,
    steps: Sequence[int | float] | None = None,
    order: str = "auto",
    use_ema: bool = False,
    like: str | None = None,
    skip_tensors: Globs | None = None,
    take_from: Mapping[str, Globs] | None = None,
    names: Sequence[str] | None = None,
    component: str | None = None,
    once: Callable[[Sequence[Checkpoint], str, Collection[str]], Once] = each_once,
) -> CheckpointSet:
    """Reads names and headers, and whole files only of checkpoints that may be copies of each other.

    Args:
        ckpt_dir: a folder, a glob, or several of them. Where a folder holds no checkpoints itself, those of the runs
            below it are taken.
        pattern: a glob on the checkpoint's name, which is its path relative to the folder.
        exclude: a glob, or several, of names to leave out.
        last: only the last n in order, after copies are left out.
        steps: only these steps; a missing one is an error.
        order: `auto`, which reads it from the names; `step`, `epoch`, `name`, or `modified` (time of the last change).
        use_ema: take of each file the average that was made while training (EMA, SWA), in place of the model.
        like: a checkpoint; those of another architecture are left out.
        skip_tensors: a glob, or several, on names of tensors that are left out of the average; the reference's are
            taken.
        take_from: checkpoint -> the same, taken from that checkpoint.
        names: these checkpoints, in this order; a missing one is an error. The other conditions do not count then.
        component: of checkpoints that are made of several models, such as diffusers' pipelines, the name of one.
        once: what leaves copies out; called as `each_once`.

    Raises:
        CheckpointError: none, too few, unreadable, corrupt or unsafe; `last` needs an order that the names leave open;
            or `like`, `skip_tensors` or `take_from` does not fit what is there.
        ValueError: an argument breaks its own rule.
    """
    if not isinstance(use_ema, bool):
        raise ValueError(f"`use_ema` must be True or False, but is {use_ema!r}.")
    filters = Filters(pattern=pattern, exclude=exclude, last=last, steps=steps, order=order, like=like)
    left_out = LeftOut(skip_tensors=skip_tensors, take_from=take_from)
    sources = sources_of(ckpt_dir)
    folder = sources.folder
    if sources.is_one_folder and not is_folder(folder):
        raise no_folder(folder)
    if names is not None:
        chosen = [of_kind(_named(name, folder), use_ema) for name in names]
        in_order = Order(checkpoints=tuple(each.checkpoint for each in chosen), reason="name")
        return _opened(sources, in_order, chosen, left_out)
    found, passed_over = scan(sources, component)
    if component is not None:
        found = _of_component(component, found, passed_over, folder)
    candidates = [of_kind(each, use_ema) for each in found]
    idle = _idle(filters, sources, [each.checkpoint.name for each in candidates] + [each.name for each in passed_over])
    passed_over = [each for each in passed_over if filters.wants(each.name)]
    wanted = [each.checkpoint for each in candidates if filters.wants(each.checkpoint.name)]
    if not wanted:
        raise _nothing(sources, filters, candidates, passed_over)
    # What is refused, such as a link that leads out, is not opened.
    refused = {each.checkpoint.name for each in candidates if each.refusal is not None}
    wanted, unlike = _alike(like, wanted, candidates, left_out, folder)
    uncopied = once(_at_steps(wanted, filters, folder), order, refused)
    ordered = _last(arrange(uncopied.checkpoints, order), last)
    if len(ordered.checkpoints) < 2:
        raise _too_few(folder, ordered.checkpoints, len(candidates), passed_over)
    opened = _opened(sources, ordered, candidates, left_out)
    refuse_parts(opened.names)
    passed = [f"Passed over in `{folder}`: {with_reasons(passed_over)}."] if passed_over else []
    return replace(
        opened,
        warnings=(*idle, *passed, *unlike, *uncopied.warnings, *unlike_by_name(opened.names), *opened.warnings),
        identical=uncopied.identical,
    )


def _alike(
    like: str | None,
    wanted: Sequence[Checkpoint],
    candidates: Sequence[Candidate],
    left_out: LeftOut,
    folder: Path,
) -> tuple[list[Checkpoint], list[str]]:
    """Those of the architecture of `like`, and a warning that names the others."""
    if like is None:
        return list(wanted), []
    # What is refused, such as a link that leads out, is not opened.
    usable = {each.checkpoint.name: each.checkpoint for each in candidates if each.refusal is None}
    model = usable[named(like, "like", list(usable), folder)]
    alike = those_like(model, wanted, left_out, unopened={each.name for each in wanted} - usable.keys())
    others = [each.name for each in wanted if each not in alike]
    return alike, [f"Of another architecture than `{model.name}`, and left out: {some(others)}."] if others else []


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


def _of_component(
    component: str, found: Sequence[Candidate], passed_over: Sequence[PassedOver], folder: Path
) -> list[Candidate]:
    if chosen := [each for each in found if is_of(component, each.checkpoint.name)]:
        return chosen
    there = f" It holds: {listed([each.checkpoint for each in found])}." if found else ""
    passed = f" Passed over: {with_reasons(passed_over)}." if passed_over else ""
    raise CheckpointError(
        "no-checkpoints",
        f"`component=` must name one of the models that checkpoints are made of, such as a folder `unet` in each, but "
        f"`{folder}` has no `{component}`.{there}{passed}",
    )


def of_kind(found: Candidate, use_ema: bool) -> Candidate:
    """The model's weights, or the average that was made of them while training."""
    return replace(found, checkpoint=replace(found.checkpoint, use_ema=use_ema))


def _opened(sources: Sources, order: Order, candidates: Sequence[Candidate], left_out: LeftOut) -> CheckpointSet:
    """The set, with what the reference says about all. Raises `CheckpointError` for what cannot be used."""
    refusals = {each.checkpoint.name: each.refusal for each in candidates if each.refusal is not None}
    for checkpoint in order.checkpoints:
        if checkpoint.name in refusals:
            raise refusals[checkpoint.name]
        for path in checkpoint.files:
            refuse_unreadable(path)
    reference = order.checkpoints[-1]
    with open_checkpoint(reference) as reader:
        tensors = dict(reader.tensors())
    found = CheckpointSet(
        folder=sources.folder,
        checkpoints=order.checkpoints,
        tensors=tensors,
        config=None,
        side_files=(),
        home=reference.home_in(sources.folder),
        places=(),
        root=sources.root_of(reference.files[0]),
        order=order.reason,
        doubt=order.doubt,
    )
    return _with_side_files(with_stand_ins(leave_out(found, left_out)), sources)


def _with_side_files(found: CheckpointSet, sources: Sources) -> CheckpointSet:
    """Of the checkpoint that gives the model its shapes."""
    model = next(each for each in found.checkpoints[::-1] if each.home_in(found.folder) == found.home)
    root = sources.root_of(model.files[0])
    places = places_of(found.folder / model.run, found.home, found.folder, root)
    beside, config = side_files(places, root), read_config(places, root)
    not_copied = (f"Not copied to the result: {', '.join(beside.left_out)}.",) if beside.left_out else ()
    found = replace(
        found,
        root=root,
        places=places,
        config=None if config is None else config.values,
        read={} if config is None else {config.path: config.sha256},
        side_files=beside.paths,
    )
    return replace(found, warnings=(*told(found), *found.warnings, *not_copied, *unlike_configs(found, sources)))


def _named(name: str, folder: Path) -> Candidate:
    found = find(name, folder)
    if isinstance(found, Candidate):
        return found
    why = f": it is {found.reason}" if found is not None else ""
    raise CheckpointError(
        "no-checkpoints", f"`ckpt_dir=` must hold the checkpoint `{name}`, but `{folder}` does not{why}."
    )


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


def _idle(filters: Filters, sources: Sources, names: Iterable[str]) -> list[str]:
    """Says where `exclude` does nothing, perhaps misspelt."""
    folder = sources.folder
    globs = filters.idle([*names, *_entries(sources)])
    return [f"`exclude=` leaves nothing out: no name in `{folder}` matches `{glob}`." for glob in globs]


def _nothing(
    sources: Sources, filters: Filters, candidates: Sequence[Candidate], passed_over: Sequence[PassedOver]
) -> CheckpointError:
    folder = sources.folder
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
    entries = _entries(sources)
    holds = f" It holds: {_several(entries)}." if entries else " It is empty." if sources.is_one_folder else ""
    return CheckpointError(
        "no-checkpoints",
        f"`ckpt_dir=` must hold checkpoints (*.safetensors, {', '.join('*' + suffix for suffix in PICKLE_SUFFIXES)}, "
        f"or folders such as checkpoint-100/), but `{folder}` holds none.{passed}{holds}",
    )


def _entries(sources: Sources) -> list[str]:
    """What lies in the folder that was given. Above several nothing may be looked at."""
    return [entry.name for entry in entries_of(sources.folder)] if sources.is_one_folder else []


def _too_few(
    folder: Path, chosen: Sequence[Checkpoint], found: int, passed_over: Sequence[PassedOver]
) -> CheckpointError:
    of = "" if len(chosen) == found else f" of {found} that `pattern=`, `exclude=`, `steps=` and `last=` leave"
    passed = f" Passed over: {with_reasons(passed_over)}." if passed_over else ""
    is_one = found == 1 and names_a_time(folder.name)
    itself = " It seems to be one checkpoint: give the folder above it." if is_one else ""
    return CheckpointError(
        "too-few-checkpoints",
        f"`ckpt_dir=` must hold at least 2 checkpoints to average, but `{folder}` holds {len(chosen)}{of}: "
        f"{listed(chosen)}.{itself}{passed}",
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
