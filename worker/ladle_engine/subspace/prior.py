"""The prior: how far coefficients are expected from where they start.

`theta_mg ~ Normal(0, v_m)`. A given prior is one number for all. A learned one is fitted to the data while they come
(empirical Bayes): `log v = a + b x`, x the logarithm of the checkpoints' variance along an axis (`subspace.Basis`). The
expected square of a coordinate is `theta^2 + 1/(N F + 1/v)`, with F the diagonal of the Fisher information, which the
scatter of the batches' gradients estimates; a and b maximise the expected log prior (an EM step; MacKay 1992, Tipping
2001).

N examples, M dimensions, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

LEARNED = "learned"

FIRST_SCALE = 0.3
FIRST_SLOPE = -0.5
"""Expected before anything is seen: in between the same variance in coefficients (0) and in weights (-1)."""
SLOPES = (-1.0, 0.5)
LOG_SCALES = (-8.0, 4.0)
WINDOW = 8
"""Gradients that the Fisher information is estimated from; there must be as many before the first fit."""
FIT_EVERY = 4
NEWTON_STEPS = 8


class Prior(Protocol):
    """The variance of each coordinate."""

    def variance(self) -> Tensor | float:
        """M x G, or one number; infinite for no prior."""
        ...

    def see(self, theta_MG: Tensor, gradient_MG: Tensor, batch_size: int) -> None:
        """One batch's gradient of the mean loss, at theta."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values and tensors."""
        ...

    def resume(self, state: Mapping[str, Any]) -> None: ...

    def to_json(self) -> dict[str, Any]:
        """For the report: `kind` (`none`, `given` or `learned`); `scale`, the standard deviation in directions'
        lengths; for a learned one also `slope`, b."""
        ...


@dataclass(frozen=True, kw_only=True)
class Given:
    """The same for all, once and for ever."""

    scale: float

    def variance(self) -> float:
        return self.scale**2

    def see(self, theta_MG: Tensor, gradient_MG: Tensor, batch_size: int) -> None:
        return

    def state(self) -> dict[str, Any]:
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:
        return

    def to_json(self) -> dict[str, Any]:
        return {"kind": "given", "scale": self.scale} if math.isfinite(self.scale) else {"kind": "none"}


@dataclass(kw_only=True)
class Learned:
    """Fitted to the data as they come."""

    log_variance_MG: Tensor
    """x: see `Basis`."""
    examples: int
    """N."""
    log_scale: float = 2 * math.log(FIRST_SCALE)
    slope: float = FIRST_SLOPE
    seen: int = 0
    gradients: list[Tensor] = field(default_factory=list)

    def variance(self) -> Tensor:
        return (self.log_scale + self.slope * self.log_variance_MG).exp()

    def see(self, theta_MG: Tensor, gradient_MG: Tensor, batch_size: int) -> None:
        self.gradients = [*self.gradients, gradient_MG.clone()][-WINDOW:]
        self.seen += 1
        if self.seen > WINDOW and self.seen % FIT_EVERY == 0:
            self._fit(theta_MG, batch_size)

    def state(self) -> dict[str, Any]:
        return {
            "log_scale": self.log_scale,
            "slope": self.slope,
            "seen": self.seen,
            "gradients": list(self.gradients),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        self.log_scale, self.slope, self.seen = state["log_scale"], state["slope"], state["seen"]
        self.gradients = list(state["gradients"])

    def to_json(self) -> dict[str, Any]:
        return {"kind": "learned", "scale": math.exp(self.log_scale / 2), "slope": self.slope}

    def _fit(self, theta_MG: Tensor, batch_size: int) -> None:
        gradients = torch.stack(self.gradients)
        # From one to the next, so that a gradient that changes as theta moves does not pass for scatter.
        fisher_MG = (gradients[1:] - gradients[:-1]).square().mean(dim=0) / 2 * batch_size
        moves_MG = gradients.abs().amax(dim=0) > 0
        expected_MG = theta_MG.square() + 1 / (self.examples * fisher_MG + 1 / self.variance())
        if not bool(moves_MG.any()):
            return
        x, squares = self.log_variance_MG[moves_MG], expected_MG[moves_MG]
        for _ in range(NEWTON_STEPS):
            ratio = squares / (self.log_scale + self.slope * x).exp()
            # The derivatives of `sum (ratio + log v)`, a generalised linear model with a logarithmic link.
            by_scale, by_slope = (ratio - 1).sum(), ((ratio - 1) * x).sum()
            h_aa, h_ab, h_bb = ratio.sum(), (ratio * x).sum(), (ratio * x * x).sum()
            determinant = h_aa * h_bb - h_ab**2
            if determinant <= 1e-9 * h_aa * h_aa:
                # All axes are alike: there is no slope to learn.
                step_a, step_b = by_scale / h_aa, torch.zeros(())
            else:
                step_a = (h_bb * by_scale - h_ab * by_slope) / determinant
                step_b = (h_aa * by_slope - h_ab * by_scale) / determinant
            self.log_scale = _within(self.log_scale + _within(float(step_a), (-1.0, 1.0)), LOG_SCALES)
            self.slope = _within(self.slope + _within(float(step_b), (-0.3, 0.3)), SLOPES)
        # The best scale for that slope in closed form: at a limit of the slope, Newton's step would take it for free.
        likeliest = float((squares * (-self.slope * x).exp()).mean().log())
        self.log_scale = _within(likeliest, LOG_SCALES)


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
