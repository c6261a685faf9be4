"""Profiles: how much a checkpoint counts in an average along a run, by the steps that it stands for.

An average `sum_j alpha_j w_j` gives the update that led to checkpoint j the weight `sum_(i >= j) alpha_i`. Read the
other way round (WSM, Tian et al. 2025, section 3): choose how updates fade, from 1 to 0 over a window of steps, and the
weights of the checkpoints follow. Checkpoint j stands for the steps from the one before it up to its own,

    x_j = (s_(j-1) - begin) / window, within 0 and 1
    alpha_j = w(x_j) - w(x_(j+1))

so checkpoints that lie apart count by what they stand for, and the sum is always 1. The first checkpoint of all stands
for whatever of the window lies before it.

    linear           w(x) = 1 - x                  the mean of the window
    one-minus-sqrt   w(x) = 1 - sqrt(x)            Megatron-LM's `minus-sqrt`: more of the early ones
    cosine           w(x) = (1 + cos(pi x)) / 2    most of the middle
    power            w(x) = 1 - x^(gamma + 1)      Karras et al. 2024 (EDM2), section 3.1; more of the late ones above 0
    exponential      w(x) = 1 - 2^((x - 1) / h)    for x > 0, and w(0) = 1: an EMA, whose first one gets the rest

`power` holds two of the others: gamma = 0 is linear, and gamma = -1/2 is one-minus-sqrt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ladle_engine.errors import MethodError

LINEAR = "linear"
ONE_MINUS_SQRT = "one-minus-sqrt"
COSINE = "cosine"
POWER = "power"
EXPONENTIAL = "exponential"
SHAPES = (LINEAR, ONE_MINUS_SQRT, COSINE, POWER, EXPONENTIAL)

ABOVE = {POWER: -1.0, EXPONENTIAL: 0.0}
"""Shapes that take a parameter -> what it must be above."""


@dataclass(frozen=True)
class Profile:
    """How updates fade over a window. Raises `MethodError` for a parameter or a window that cannot be."""

    shape: str
    parameter: float | None = None
    """Of `power`, gamma, above -1. Of `exponential`, the half-life as a share of the window, above 0. Else None."""
    window: float | None = None
    """How far it reaches back, in the unit of the positions (steps); None for as far as there are checkpoints."""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            _refuse("shape", f"be one of {', '.join(SHAPES)}", self.shape)
        if (self.parameter is not None) != (self.shape in ABOVE):
            rule = "be a number" if self.shape in ABOVE else "be absent"
            _refuse("parameter", f"{rule} for the shape `{self.shape}`", self.parameter)
        if self.parameter is not None and not ABOVE[self.shape] < self.parameter < math.inf:
            _refuse("parameter", f"be above {ABOVE[self.shape]:g} for the shape `{self.shape}`", self.parameter)
        if self.window is not None and not 0 < self.window < math.inf:
            _refuse("window", "be above 0", self.window)

    def fading(self, x: Tensor) -> Tensor:
        """`w(x)`: the weight of an update at the share x, from 0 to 1, of the window."""
        if self.shape == LINEAR:
            return 1.0 - x
        if self.shape == ONE_MINUS_SQRT:
            return 1.0 - x.sqrt()
        if self.shape == COSINE:
            return (1.0 + (math.pi * x).cos()) / 2
        assert self.parameter is not None, "shapes with a parameter have one"
        if self.shape == POWER:
            return 1.0 - x ** (self.parameter + 1)
        return torch.where(x > 0, 1.0 - 2.0 ** ((x - 1) / self.parameter), 1.0)


def weights(positions: Sequence[float], end: int, profile: Profile) -> Tensor:
    """float64 [K]: the coefficients of K checkpoints for the average that ends at the checkpoint of the index `end`.

    Those after it have 0. `positions` are their steps, which must rise; see `positions_of`.
    """
    edges = torch.tensor([_begin(positions), *positions[: end + 1]], dtype=torch.float64)
    window = float(edges[-1] - edges[0]) if profile.window is None else profile.window
    passed = (edges - (edges[-1] - window)).clamp(0.0, window)
    passed[0] = 0.0
    alpha_K = torch.zeros(len(positions), dtype=torch.float64)
    if profile.shape == LINEAR:
        # Of steps, not of shares: the mean of k evenly spaced ones is `1/k` to the last bit.
        alpha_K[: end + 1] = passed.diff() / window
    else:
        alpha_K[: end + 1] = -profile.fading(passed / window).diff()
    return alpha_K


def window_of(positions: Sequence[float], end: int, count: int) -> float:
    """The window of the `count` checkpoints up to the index `end`: the steps that they stand for."""
    first = end - count + 1
    return positions[end] - (positions[first - 1] if first > 0 else _begin(positions))


def positions_of(steps: Sequence[float | None]) -> list[float]:
    """The steps where all are known and rise, else 0 to K - 1: every checkpoint stands for as much as any other."""
    known = [float(step) for step in steps if step is not None]
    rises = all(one < other for one, other in pairwise(known))
    return known if len(known) == len(steps) and rises else [float(index) for index in range(len(steps))]


def half_life_of_decay(decay: float, count: int) -> float:
    """The parameter of `exponential` for an EMA that keeps `decay` of its past at each of `count` evenly spaced
    checkpoints, which the window holds."""
    return -math.log(2) / (count * math.log(decay))


def gamma_of_half_life(share: float) -> float:
    """The parameter of `power` for an EMA whose half-life is always the same share of the steps so far, as torchtitan's
    `half_life_fraction`: step t keeps `2^(-1 / (share t))` of the past, so after T steps `(t/T)^(ln 2 / share)` of
    what was there at t is left."""
    return math.log(2) / share - 1


def _begin(positions: Sequence[float]) -> float:
    """Where what the first checkpoint stands for begins: it has as many steps as the second one."""
    return positions[0] - (positions[1] - positions[0] if len(positions) > 1 else 1.0)


def _refuse(field: str, rule: str, value: object) -> None:
    raise MethodError("invalid-method-options", f"`{field}` of a profile must {rule}, but is {value!r}.")
