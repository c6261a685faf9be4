"""The way that coefficients took in training: at most 200 entries, and one number per checkpoint in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

MOST_ENTRIES = 200
DIGITS = 6
"""After the point: what a picture needs."""
SMOOTHED_SHARE = 0.1
"""Of the steps: losses of single batches are noisy, and their lowest one says little."""


@dataclass(kw_only=True)
class CoefficientPath:
    """The coefficients at which the loss was measured, for every n-th step and the last one."""

    total: int
    """How many steps (or passes) training may take."""
    steps: list[int] = field(default_factory=list)
    coefficients: list[list[float]] = field(default_factory=list)
    """K numbers per entry: the means over the groups."""

    def see(self, step: int, weights_KG: Tensor) -> None:
        """At the beginning of a step, which is counted from 0."""
        if self.is_kept(step):
            self.steps.append(step)
            self.coefficients.append([round(mean, DIGITS) for mean in weights_KG.detach().mean(dim=1).tolist()])

    def is_kept(self, step: int) -> bool:
        return step % -(-self.total // (MOST_ENTRIES - 1)) == 0 or step == self.total - 1

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"steps": list(self.steps), "coefficients": list(self.coefficients)}

    def resume(self, state: Mapping[str, Any]) -> None:
        self.steps, self.coefficients = list(state["steps"]), list(state["coefficients"])


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why training ended, and where it was best."""

    how: str
    """`steps`: all were taken; `converged`: nothing improved any more; `passes`, `budget`: they were used up."""
    best_at: int
    """The step (or pass), counted from 0, with the lowest objective; of batches see `lowest_smoothed`."""
    averaged_from: int | None = None
    """The result is the mean of the coefficients from this step on. None: it is the last ones."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a training run went, for the report."""

    path: CoefficientPath
    losses: Sequence[float]
    """Of every step (or pass)."""
    prior: Mapping[str, Any]
    """As it was at the end."""
    ending: Ending

    def to_json(self, groups: Sequence[str]) -> dict[str, Any]:
        return {
            "steps": self.path.steps,
            "loss": [self.losses[step] for step in self.path.steps],
            "groups": list(groups),
            "coefficients": self.path.coefficients,
            "prior": dict(self.prior),
            "ended": self.ending.how,
            "ended_at": len(self.losses),
            "best_at": self.ending.best_at,
            "averaged_from": self.ending.averaged_from,
        }


def lowest_smoothed(losses: Sequence[float]) -> int:
    """The last step of the tenth of the steps in a row with the lowest mean loss."""
    width = max(round(SMOOTHED_SHARE * len(losses)), 1)
    window = sum(losses[:width])
    lowest, at = window, width - 1
    for step in range(width, len(losses)):
        window += losses[step] - losses[step - width]
        if window < lowest:
            lowest, at = window, step
    return at
