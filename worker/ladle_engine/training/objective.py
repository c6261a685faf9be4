"""What training minimises: a maximum a posteriori, in the M x G dimensions of a basis.

The mean loss over the N examples, plus `|theta|^2 / (2 N prior^2)`, plus `l2 / 2 |theta|^2` (paper, eq. 5).

K checkpoints (or rows of another basis), G groups, M dimensions of the basis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ladle_engine.subspace.bases import Subspace
from ladle_engine.subspace.prior import LEARNED, Given, Learned, Prior
from ladle_engine.training.path import CoefficientPath
from ladle_engine.training.settings import TrainSettings
from ladle_engine.training.trainer import Trainer

NO_TRUE_GRADIENT = 1e-6
"""A group whose gradient is below this share of the largest one has only rounding noise (a bias before BatchNorm, say),
which an adaptive optimiser would follow at full speed."""


@dataclass(frozen=True, kw_only=True)
class AtPoint:
    """What a batch of examples says at one point."""

    loss: float
    objective: float
    """With what the prior and `l2` add."""
    gradient_MG: Tensor
    """Of the objective, by theta."""
    data_MG: Tensor
    """Of the loss alone."""
    weights_KG: Tensor
    """Of the rows there; with `sam_radius` before the step uphill."""


@dataclass(kw_only=True)
class Objective:
    """The objective of one training run, the point `theta` that it has come to, and the losses on the way."""

    trainer: Trainer
    subspace: Subspace
    settings: TrainSettings
    theta_MG: Tensor
    prior: Prior
    count: int
    """Examples, as far as one set would need them to say as much."""
    path: CoefficientPath
    losses: list[float] = field(default_factory=list)
    """The mean loss of every batch, or of every whole pass."""

    @classmethod
    def of(cls, trainer: Trainer, subspace: Subspace, settings: TrainSettings) -> Objective:
        """At the subspace's start."""
        return cls(
            trainer=trainer,
            subspace=subspace,
            settings=settings,
            theta_MG=subspace.start.clone().requires_grad_(),
            prior=_prior(settings.prior, subspace, trainer.examples.effective_count),
            count=trainer.examples.effective_count,
            path=CoefficientPath(total=settings.steps),
        )

    def measure(self, indices: Tensor) -> AtPoint:
        """What a batch says at theta or, with `sam_radius`, uphill of it. Its loss is that of the next step."""
        measured = self._measured(indices)
        self.path.see(len(self.losses), measured.weights_KG)
        self.losses.append(measured.loss)
        return measured

    def _measured(self, indices: Tensor) -> AtPoint:
        here = self._at(self.theta_MG.detach(), indices)
        length = here.gradient_MG.norm()
        if not self.settings.sam_radius or not length > 0:
            return here
        uphill_MG = self.theta_MG.detach() + self.settings.sam_radius * here.gradient_MG / length
        return replace(self._at(uphill_MG, indices), loss=here.loss, weights_KG=here.weights_KG)

    def _at(self, theta_MG: Tensor, indices: Tensor) -> AtPoint:
        theta_MG = theta_MG.detach().requires_grad_()
        weights_KG = self.subspace.weights(theta_MG)
        loss, gradient_KG = self.trainer.loss_and_gradient(weights_KG.detach(), indices)
        self.trainer.refuse_infinite(loss, gradient_KG, len(self.losses) + 1, self.settings)
        (data_MG,) = torch.autograd.grad(weights_KG, theta_MG, gradient_KG)
        data_MG = without_noise(data_MG)
        moved_MG = theta_MG.detach() - self.subspace.start
        # Divided by the number of examples: few of them can move coefficients but little.
        pull_MG = moved_MG / (self.count * self.prior.variance()) + self.settings.l2 * moved_MG
        return AtPoint(
            loss=loss,
            objective=loss + float((moved_MG * pull_MG).sum()) / 2,
            gradient_MG=(data_MG + pull_MG).contiguous(),
            data_MG=data_MG,
            weights_KG=weights_KG.detach(),
        )

    def resume(self, optimiser: torch.optim.Optimizer) -> Mapping[str, Any] | None:
        saved = self.trainer.state.load(f"train-{self.trainer.method}")
        if saved is not None:
            with torch.no_grad():
                self.theta_MG.copy_(saved["theta"])
            optimiser.load_state_dict(saved["optimiser"])
            self.losses.extend(saved["losses"])
            self.path.resume(saved["path"])
        return saved

    def save(self, optimiser: torch.optim.Optimizer, **more: Any) -> None:
        self.trainer.state.save(
            f"train-{self.trainer.method}",
            {
                "theta": self.theta_MG.detach(),
                "optimiser": optimiser.state_dict(),
                "losses": self.losses,
                "path": self.path.state(),
                **more,
            },
        )


def _prior(asked: float | str | None, subspace: Subspace, examples: int) -> Prior:
    if asked == LEARNED:
        return Learned(log_variance_MG=subspace.log_variance_MG, examples=examples)
    assert not isinstance(asked, str), "options are checked before"
    return Given(scale=math.inf if asked is None else asked)


def without_noise(gradient_MG: Tensor) -> Tensor:
    """Zero for the groups that have no true gradient; see `NO_TRUE_GRADIENT`."""
    largest_G = gradient_MG.abs().amax(dim=0)
    return torch.where(largest_G > NO_TRUE_GRADIENT * largest_G.max(), gradient_MG, 0.0)
