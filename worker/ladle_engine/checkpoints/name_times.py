"""When each checkpoint of a folder was saved, as far as the names say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ladle_engine.checkpoints.name_parts import (
    LAST_WORDS,
    RUNNING_AVERAGES,
    Counts,
    Part,
    names_an_average,
    parts_of,
    words_of,
)
from ladle_engine.checkpoints.types import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Time:
    """Numbers that count time; false where there is none."""

    epochs: tuple[Fraction, ...] = ()
    """From the coarsest to the finest: a stage, an epoch."""
    step: Fraction | None = None
    plain: tuple[Fraction, ...] = ()
    """Numbers that no word explains, in names without an epoch or a step."""

    def __bool__(self) -> bool:
        return self.named or bool(self.plain)

    @property
    def named(self) -> bool:
        return bool(self.epochs) or self.step is not None

    @property
    def finest(self) -> int | float | None:
        """The step or, without one, the epoch or the last number."""
        number = self.step if self.step is not None else next(reversed((*self.plain, *self.epochs)), None)
        if number is None:
            return None
        return int(number) if number.denominator == 1 else float(number)


def times_of(checkpoints: Sequence[Checkpoint]) -> list[Time]:
    """A step that a checkpoint has already, from its trainer, counts before those in its name."""
    numbers = _that_vary(
        [[part for part in parts_of(each.name_in_run) if part.number is not None] for each in checkpoints]
    )
    named = any(part.counts in (Counts.EPOCH, Counts.STEP) for parts in numbers for part in parts)
    plain = any(part.counts is Counts.PLAIN for parts in numbers for part in parts)
    unexplained = {Counts.PLAIN} if named or plain else {Counts.WEAK}
    return [
        _time(parts, set() if _explains_its_numbers(each.name_in_run) else unexplained, each.step, named)
        for parts, each in zip(numbers, checkpoints, strict=True)
    ]


def _explains_its_numbers(name: str) -> bool:
    """The 16 of `vit_b_16-last` is no time, nor is the 5 of `avg_5`; but that of `ema-5` is."""
    words = words_of(name)
    return bool(words & LAST_WORDS) or (names_an_average(name) and not words & RUNNING_AVERAGES)


def _time(parts: Sequence[Part], unexplained: set[Counts], trainer: int | float | None, named: bool) -> Time:
    epochs = _values(parts, {Counts.EPOCH})
    step = next(iter(_values(parts, {Counts.STEP})), None)
    plain = () if epochs or step is not None else _values(parts, unexplained)
    if Counts.WEAK in unexplained and len(plain) > 1:
        plain = ()
    if trainer is None:
        return Time(epochs=epochs, step=step, plain=plain)
    # Beside `checkpoint-500`, whose number no word explains, a trainer's step is one more such number.
    return Time(epochs=epochs, step=Fraction(trainer)) if named else Time(plain=(Fraction(trainer),))


def _values(parts: Sequence[Part], counts: set[Counts]) -> tuple[Fraction, ...]:
    return tuple(part.number for part in parts if part.counts in counts and part.number is not None)


def _that_vary(numbers: list[list[Part]]) -> list[list[Part]]:
    """Without numbers that count no time: a metric, or one that is the same in every name while another is not."""
    values: dict[tuple[str, int], list[Fraction]] = defaultdict(list)
    for part in (part for parts in numbers for part in parts):
        if part.number is not None:
            values[part.key].append(part.number)
    metrics = {key for key, held in values.items() if any(value < 0 or value.denominator > 1 for value in held)}
    counting = [
        [part for part in parts if part.counts in (Counts.EPOCH, Counts.STEP) or _may_count(part, metrics)]
        for parts in numbers
    ]
    same = {key for key, held in values.items() if len(held) > 1 and len(set(held)) == 1}
    varying = [[part for part in parts if part.key not in same] for parts in counting]
    return varying if any(varying) else counting


def _may_count(part: Part, metrics: set[tuple[str, int]]) -> bool:
    return part.counts in (Counts.PLAIN, Counts.WEAK) and part.key not in metrics
