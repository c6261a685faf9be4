"""How coefficients are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("cosine", "linear", "constant", "step")

OPTIMISERS = ("adamw", "sgd", "lbfgs")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How coefficients are trained, in units of the directions' lengths."""

    steps: int
    """Batches whose gradient is taken (with `sam_radius` twice); for L-BFGS, passes over all examples."""
    learning_rate: float
    optimiser: str
    momentum: float
    """For SGD."""
    schedule: str
    warmup_fraction: float
    averaged_fraction: float
    """The result is the mean of theta over this last share of the steps, which takes out the noise of the batches; 0 is
    the last step's. Not for L-BFGS."""
    prior: float | str | None
    """The standard deviation that coefficients are expected to have around the start; `learned`; None for no prior."""
    l2: float
    """`l2 / 2 * |theta|^2` is added to the mean loss (the paper's lambda, eq. 5)."""
    sam_radius: float
    """The gradient is taken this far uphill (sharpness-aware minimisation); 0 for none."""
    seed: int


def schedule(step: int, settings: TrainSettings) -> float:
    """The share of the learning rate at a step: linear warm-up, then down to zero along a cosine or a line, or not.

    `step` is the paper's: a tenth after half of the steps, a hundredth after three quarters.
    """
    warmup = round(settings.warmup_fraction * settings.steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "linear":
        return 1 - progress
    if settings.schedule == "step":
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
    return 1.0
