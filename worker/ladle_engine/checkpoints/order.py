"""The order of checkpoints: by the times in their names, if the names agree about it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from ladle_engine.checkpoints.name_parts import FIRST_WORDS, LAST_WORDS, names_an_average, natural_key, words_of
from ladle_engine.checkpoints.name_times import Time, times_of
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.storage.boundary import status

MOST_RUNS = 5
"""Named in a message."""
ORDERS = ("auto", "step", "epoch", "name", "modified")
END = math.inf
"""A name with an epoch and no step stands for the end of the epoch."""

Key = tuple[Fraction | float, ...]
Reading = Callable[[Time], Key | None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """Checkpoints in order, with their steps, and where the order comes from."""

    checkpoints: tuple[Checkpoint, ...]
    reason: str
    """As in "ordered by `reason`": `step`, `epoch and step`, `number in the name`."""
    doubt: str | None = None
    """For people: the two orders that the names allow. None when they are clear."""


def arrange(checkpoints: Sequence[Checkpoint], how: str = "auto") -> Order:
    """Puts checkpoints in order. Those whose names hold no time come last, `last` and `final` at the end.

    Raises `CheckpointError` (ambiguous-order) where no name holds what `how` asks for.
    """
    if how not in ORDERS:
        raise ValueError(f"`order` must be one of {', '.join(f'`{each}`' for each in ORDERS)}, but is {how!r}.")
    runs = runs_of(checkpoints)
    if how == "auto" and len(runs) > 1:
        return _over_runs(runs)
    times = times_of(checkpoints)
    stamped = [replace(each, step=time.finest) for each, time in zip(checkpoints, times, strict=True)]
    time_of = {each.name: time for each, time in zip(checkpoints, times, strict=True)}
    if how == "name":
        return Order(checkpoints=_by_name(stamped), reason="name")
    if how == "modified":
        return Order(checkpoints=_by_change(stamped), reason="time of the last change")
    readings = _readings(times)
    if how == "auto":
        return _auto(stamped, time_of, readings)
    if not any(readings[how](time) for time in times):
        raise CheckpointError(
            "ambiguous-order",
            f"`order=` must be something that the names hold, but is `{how}`, and there is none in {listed(stamped)}.",
        )
    return Order(checkpoints=_by_time(stamped, time_of, readings[how]), reason=how)


def runs_of(checkpoints: Sequence[Checkpoint]) -> dict[str, list[Checkpoint]]:
    """The checkpoints of each run, by the run's folder, in the order of its name."""
    runs: dict[str, list[Checkpoint]] = defaultdict(list)
    for checkpoint in sorted(checkpoints, key=lambda each: natural_key(each.run)):
        runs[checkpoint.run].append(checkpoint)
    return {run: found for run, found in _joined(dict(runs)).items() if found}


def _joined(runs: dict[str, list[Checkpoint]]) -> dict[str, list[Checkpoint]]:
    """A model above the checkpoints of one run is of this run, such as `final/` beside `checkpoints/`."""
    for outer in runs:
        below = [run for run in runs if run != outer and (not outer or run.startswith(f"{outer}/"))]
        if len(below) == 1:
            runs[below[0]] += runs[outer]
            runs[outer] = []
    return runs


def _over_runs(runs: Mapping[str, Sequence[Checkpoint]]) -> Order:
    """Run after run, each in its own order. Nothing says that one run goes on where another one ended."""
    orders = [arrange(run) for run in runs.values()]
    reasons = {order.reason for order in orders}
    names = [f"`{run or '.'}`" for run in runs]
    shown = ", ".join(names[:MOST_RUNS]) + (f" and {len(names) - MOST_RUNS} more" if len(names) > MOST_RUNS else "")
    return Order(
        checkpoints=tuple(each for order in orders for each in order.checkpoints),
        reason="run, then " + (reasons.pop() if len(reasons) == 1 else "what each run's names hold"),
        doubt=f"The checkpoints must be of one run to have an order, but are of {len(runs)}: {shown}. Give one of them "
        f"as `ckpt_dir=` or, if they are one training that was continued, choose the order with `order=`: `step`, "
        f"`epoch`, `name` or `modified`.",
    )


def _readings(times: Sequence[Time]) -> dict[str, Reading]:
    """How a time becomes a key. Numbers that no word explains count only where no name has an epoch or a step."""
    if any(time.named for time in times):
        return {
            "epoch": lambda time: (*time.epochs, END if time.step is None else time.step) if time.epochs else None,
            "step": lambda time: None if time.step is None else (time.step,),
        }
    # fairseq keeps `checkpoint_1_900`, saved within epoch 1, beside `checkpoint1`, saved at its end.
    width = max((len(time.plain) for time in times), default=0) or 1
    return {
        "epoch": lambda time: (*time.plain, *[END] * (width - len(time.plain))) if time.plain else None,
        "step": lambda time: time.plain[-1:] if len(time.plain) == width else None,
    }


def _auto(checkpoints: Sequence[Checkpoint], time_of: dict[str, Time], readings: dict[str, Reading]) -> Order:
    times = [time for time in time_of.values() if time]
    keys = {how: [reading(time) for time in times] for how, reading in readings.items()}
    complete = [how for how, held in keys.items() if None not in held]
    if not complete:
        orders = {"name": _by_name(checkpoints), "modified": _by_change(checkpoints)}
        doubt = _doubt("some hold an epoch, others a step or a number alone", orders)
        return Order(checkpoints=orders["name"], reason="name", doubt=doubt)
    orders = {how: _by_time(checkpoints, time_of, readings[how]) for how in complete}
    chosen, reason = orders[complete[0]], _reason(times, complete)
    # Where steps are counted anew in each epoch, the same step comes in several: by step alone is no order then.
    if len(set(orders.values())) == 1 or len(set(keys["step"])) < len(set(keys["epoch"])):
        return Order(checkpoints=chosen, reason=reason)
    return Order(checkpoints=chosen, reason=reason, doubt=_doubt("their numbers disagree", orders))


def _reason(times: Sequence[Time], complete: Sequence[str]) -> str:
    if len(set(times)) < 2 <= len(times) or not times:
        return "name"
    if not any(time.named for time in times):
        return "number in the name"
    both = complete[0] == "epoch" and any(time.step is not None for time in times)
    return "epoch and step" if both else complete[0]


def _doubt(why: str, orders: dict[str, tuple[Checkpoint, ...]]) -> str:
    shown = "; ".join(f"`{how}` gives {listed(checkpoints)}" for how, checkpoints in orders.items())
    return f"The names of the checkpoints must give one order, but {why}. Choose one with `order=`: {shown}."


def _by_time(checkpoints: Sequence[Checkpoint], time_of: dict[str, Time], reading: Reading) -> tuple[Checkpoint, ...]:
    def key(checkpoint: Checkpoint) -> tuple[object, ...]:
        time = reading(time_of[checkpoint.name])
        place = 2 if time is not None else _place_without_time(checkpoint.name_in_run)
        return (place, time or (), natural_key(checkpoint.name))

    return tuple(sorted(checkpoints, key=key))


def _place_without_time(name: str) -> int:
    """Before those with a time (2), or after them."""
    words = words_of(name)
    if words & FIRST_WORDS:
        return 0
    # Not the last, whose config, dtypes and counters the result has.
    if names_an_average(name):
        return 1
    return 4 if words & LAST_WORDS else 3


def _by_name(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    return tuple(sorted(checkpoints, key=lambda each: natural_key(each.name)))


def _by_change(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """By the newest of each one's files."""

    def changed(checkpoint: Checkpoint) -> int:
        return max(map(_changed_ns, checkpoint.files), default=0)

    return tuple(sorted(checkpoints, key=lambda each: (changed(each), natural_key(each.name))))


def _changed_ns(file: Path) -> int:
    """0 for what is not there or outside: it is refused when it would be used."""
    try:
        return status(file).st_mtime_ns
    except (OSError, EngineError):
        return 0


def listed(checkpoints: Sequence[Checkpoint], most: int = 10) -> str:
    """Names for a message."""
    names = [f"`{checkpoint.name}`" for checkpoint in checkpoints[:most]]
    return ", ".join(names) + (f" and {len(checkpoints) - most} more" if len(checkpoints) > most else "") or "none"
