"""Which checkpoints lie in one basin: those between which the loss does not rise (linear mode connectivity).

Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section 2; for ends of unequal loss
as in Entezari et al. 2022, "The Role of Permutation Invariance in Linear Mode Connectivity", definition 2.2: the height
of a barrier is counted from the line between the losses of the two ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ladle_engine.pipeline.diagnosis.losses import Loss

SIGMAS = 3.0
"""Standard errors of the height, paired over examples: a barrier must be above noise ..."""
SHARE = 0.02
"""... and above this share of the loss on the line. Frankle et al. count errors that rise by less than 2 % as none."""


@dataclass(frozen=True, kw_only=True)
class Height:
    """By how much the loss at a point between two models lies above the line between theirs."""

    value: float
    """Infinite where the loss there is; below zero where the average is better than the line."""
    noise: float
    """One standard error; 0 where the height is not finite."""
    level: float
    """The loss on the line."""

    @property
    def is_barrier(self) -> bool:
        return not math.isfinite(self.value) or self.value > max(SIGMAS * self.noise, SHARE * abs(self.level))


def height(start: Loss, end: Loss, t: float, between: Loss) -> Height:
    """Of the point `t` of the way from `start` to `end`."""
    if any(each.evaluation is None for each in (start, end, between)):
        return Height(value=math.inf, noise=0.0, level=0.0)
    level = (1 - t) * start.value + t * end.value
    differences = between.samples - ((1 - t) * start.samples + t * end.samples)
    return Height(value=between.value - level, noise=float(differences.std()), level=level)


def basins(
    members: Sequence[int], losses: Sequence[Loss], distances: Callable[[int, int], float], parted: Parted
) -> list[list[int]]:
    """Each member joins the first basin whose best member no barrier parts it from, the nearest one first.

    `losses` are those of the members. From the best member to the worst, so that the bottom of a basin stands for it.
    """
    by_loss = sorted(range(len(members)), key=lambda position: (losses[position].value, position))
    found: list[list[int]] = []
    for member in (members[position] for position in by_loss):
        nearest = sorted(found, key=lambda basin: distances(member, basin[0]))
        home = next((basin for basin in nearest if not parted(basin[0], member)), None)
        if home is None:
            found.append([member])
        else:
            home.append(member)
    return [sorted(basin) for basin in found]


Parted = Callable[[int, int], bool]
"""Whether a barrier lies between two checkpoints."""
