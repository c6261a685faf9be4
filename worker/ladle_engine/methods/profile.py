"""`profile`: an average over a window of steps, by how updates fade over it; see `ladle_engine.profiles`.

Which one is picked by two races on the select split: nothing is trained there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import MethodError
from ladle_engine.methods.base import FixedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.fixed import decays
from ladle_engine.model.binding import Binding
from ladle_engine.options import did_you_mean, option
from ladle_engine.profiles import (
    COSINE,
    EXPONENTIAL,
    LINEAR,
    ONE_MINUS_SQRT,
    POWER,
    SHAPES,
    Profile,
    half_life_of_decay,
    positions_of,
    weights,
    window_of,
)

GAMMAS = (1.0, 3.0, 12.9)
"""Tried for `power`; 12.9 is torchtitan's."""
GROWTH = math.sqrt(2)
"""Of the windows that are tried first."""
REFINED = 4
"""Windows that are tried between two of those."""


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    shape: str | None = option(
        None, "how updates fade over the window; by default the select split chooses", one_of=SHAPES
    )
    parameter: float | None = option(
        None,
        "gamma of `power`, or the half-life of `exponential` as a share of the window; by default the select split "
        "chooses",
    )
    window: int | None = option(None, "how many checkpoints it holds; by default the select split chooses", at_least=1)
    end: str | None = option(None, "the name of the checkpoint that it ends at; by default the last one")

    def check(self, owner: str) -> None:
        """Raises `MethodError` for a parameter that its shape cannot have."""
        if self.parameter is not None:
            if self.shape is None:
                raise MethodError(
                    "invalid-method-options",
                    f"`parameter` of {owner} must come with `shape`, but is {self.parameter:g} alone.",
                )
            Profile(self.shape, self.parameter)


class ProfileMethod(FixedMethod):
    name: ClassVar[str] = "profile"
    summary: ClassVar[str] = (
        "An average over a window of steps in one of five shapes; `uniform`, `last-k` and `ema` are three of its cases."
    )
    formula: ClassVar[tuple[str, ...]] = (
        "alpha_i = w(x_i) - w(x_(i+1))",
        "x_i = (s_(i-1) - s_end)/T + 1",
        "w(x) = 1 - x^(gamma+1)",
    )
    reference: ClassVar[str] = "Tian et al. 2025, WSM; Karras et al. 2024 (EDM2), section 3.1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2507.17634"
    options_type: ClassVar[type] = ProfileOptions

    def goes_by_order(self, options: ProfileOptions) -> bool:
        return True

    def check(self, options: ProfileOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        if options.end is not None and options.end not in checkpoint_names:
            raise MethodError(
                "invalid-method-options",
                f"`end` of method `profile` must be the name of a checkpoint, but is `{options.end}`."
                f"{did_you_mean(options.end, checkpoint_names)}",
            )
        reach = 1 + _end(options, checkpoint_names)
        if options.window is not None and options.window > reach:
            raise MethodError(
                "invalid-method-options",
                f"`window` of method `profile` must be at most the number of checkpoints up to its end ({reach}), but "
                f"is {options.window}.",
            )

    def choose(self, context: MethodContext, options: ProfileOptions) -> Choice:
        family = Family(context.checkpoints, options)
        tried = family.first()
        best = self._race(context, family, tried)
        more = [each for each in family.around(best) if each not in tried]
        if more:
            best = self._race(context, family, [best, *more])
        return Choice(coefficients=context.coefficients(family.alpha(best)), label=f"profile ({family.told(best)})")

    def _race(self, context: MethodContext, family: Family, tried: Sequence[Member]) -> Member:
        rows = [context.coefficients(family.alpha(each)) for each in tried]
        return tried[context.race(rows, method=self.name)]


@dataclass(frozen=True)
class Member:
    """One profile of the family."""

    shape: str
    parameter: float | None
    count: int
    """Checkpoints in its window."""


@dataclass(frozen=True)
class Family:
    """The profiles that may be chosen, of what the options leave open."""

    checkpoints: CheckpointSet
    options: ProfileOptions

    @cached_property
    def positions(self) -> list[float]:
        """By the real steps, unless those are of several runs."""
        return positions_of(self.checkpoints.known_steps)

    @property
    def end(self) -> int:
        return _end(self.options, self.checkpoints.names)

    def alpha(self, member: Member) -> Tensor:
        """float64 [K]"""
        profile = Profile(member.shape, member.parameter, self._window(member.count))
        return weights(self.positions, self.end, profile)

    def first(self) -> list[Member]:
        """Where neither is given, the mean over windows that grow by `GROWTH`; else all shapes over the given window,
        or all windows of the given shape."""
        shapes = [self.options.shape] if self.options.shape else list(SHAPES) if self.options.window else [LINEAR]
        return [
            Member(shape, parameter, count)
            for shape in shapes
            for count in self._counts(shape)
            for parameter in self._parameters(shape, count)
        ]

    def around(self, best: Member) -> list[Member]:
        """The windows next to that of the best one, and other shapes in which checkpoints have the same mean age."""
        if self.options.window:
            return []
        found = self._next_to(best)
        if self.options.shape is None:
            reach = self.end + 1
            same_age = [
                [Member(shape, parameter, count) for count in range(min(2, reach), reach + 1)]
                for shape in (ONE_MINUS_SQRT, COSINE, POWER)
                for parameter in self._parameters(shape, reach)
            ]
            same_age.append([Member(EXPONENTIAL, each, reach) for each in self._parameters(EXPONENTIAL, reach)])
            age = self._mean_age(best)
            found += [min(those, key=lambda each: abs(self._mean_age(each) - age)) for those in same_age]
        return found

    def told(self, member: Member) -> str:
        """For people: which one it is, by its usual name where it has one."""
        even = len({round(after - before, 9) for before, after in pairwise(self.positions)}) <= 1
        K = len(self.positions)
        if even and self.end == K - 1 and member.shape == LINEAR:
            return "uniform" if member.count == K else f"last-k, k = {member.count}"
        if even and member.shape == EXPONENTIAL and member.count == K:
            assert member.parameter is not None
            return f"ema, decay = {2 ** (-1 / (member.parameter * K)):.4g}"
        shape = member.shape if member.parameter is None else f"{member.shape} {member.parameter:.3g}"
        upto = "" if self.end == K - 1 else f" up to {self.checkpoints.names[self.end]}"
        return f"{shape}, {member.count} checkpoints{upto}"

    def _counts(self, shape: str) -> list[int]:
        if self.options.window:
            return [self.options.window]
        reach = self.end + 1
        if shape == EXPONENTIAL:
            # Its half-life says how far it reaches.
            return [reach]
        return grown(reach)

    def _parameters(self, shape: str, count: int) -> list[float | None]:
        if self.options.parameter is not None:
            return [self.options.parameter]
        if shape == POWER:
            return list(GAMMAS)
        if shape == EXPONENTIAL:
            return [half_life_of_decay(decay, count) for decay in decays(count)]
        return [None]

    def _next_to(self, best: Member) -> list[Member]:
        tried = self._counts(best.shape)
        place = tried.index(best.count)
        below, above = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]
        between = [*_between(below, best.count), *_between(best.count, above)]
        return [Member(best.shape, best.parameter, count) for count in between]

    def _window(self, count: int) -> float:
        return window_of(self.positions, self.end, count)

    def _mean_age(self, member: Member) -> float:
        """In steps."""
        return self._window(member.count) * mean_age(member.shape, member.parameter)


def mean_age(shape: str, parameter: float | None) -> float:
    """How long before the end a checkpoint is, on average over the weights, as a share of the window: the integral of
    `1 - w`."""
    if shape == EXPONENTIAL:
        assert parameter is not None
        return parameter / math.log(2) * (1 - 2 ** (-1 / parameter))
    power = {LINEAR: 1.0, ONE_MINUS_SQRT: 0.5, COSINE: 1.0}
    return 1 / (1 + (power[shape] if parameter is None else parameter + 1))


def grown(reach: int) -> list[int]:
    """Whole numbers from 2 to `reach`, each about `GROWTH` times the one before."""
    steps = math.floor(math.log(max(reach, 2) / 2, GROWTH) + 1e-9)
    return sorted({min(reach, round(2 * GROWTH**step)) for step in range(steps + 1)} | {reach})


def _between(low: int, high: int) -> list[int]:
    """At most `REFINED` of the whole numbers between two, evenly spaced."""
    inside = high - low - 1
    count = min(inside, REFINED)
    return [low + round((inside + 1) * (i + 1) / (count + 1)) for i in range(count)]


def _end(options: ProfileOptions, names: Sequence[str]) -> int:
    return len(names) - 1 if options.end is None else list(names).index(options.end)
