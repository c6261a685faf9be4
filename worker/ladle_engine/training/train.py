"""Trains coefficients in a subspace, with the optimiser that the settings name."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ladle_engine.subspace.bases import Subspace
from ladle_engine.training.descent import descend
from ladle_engine.training.lbfgs import minimise
from ladle_engine.training.objective import Objective
from ladle_engine.training.settings import TrainSettings
from ladle_engine.training.trainer import Trainer


@dataclass(kw_only=True)
class Trained:
    """What training left."""

    weights_KG: Tensor
    """float64: of the checkpoints, or of the rows of another basis."""
    losses: list[float] = field(default_factory=list)
    """The mean loss of every batch, or of every whole pass."""


def train(trainer: Trainer, subspace: Subspace, settings: TrainSettings) -> Trained:
    """Collective. Raises `MethodError` when the loss or a gradient is no longer finite."""
    objective = Objective.of(trainer, subspace, settings)
    if settings.optimiser == "lbfgs":
        minimise(objective)
    else:
        descend(objective)
    return Trained(weights_KG=subspace.weights(objective.theta_MG.detach()), losses=objective.losses)
