"""Trains coefficients in a subspace, with the optimiser that the settings name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ladle_engine.subspace.bases import Subspace
from ladle_engine.training.descent import descend
from ladle_engine.training.lbfgs import minimise
from ladle_engine.training.objective import Objective
from ladle_engine.training.path import Course
from ladle_engine.training.settings import TrainSettings
from ladle_engine.training.trainer import Trainer


@dataclass(kw_only=True)
class Trained:
    """What training left."""

    weights_KG: Tensor
    """float64: of the checkpoints, or of the rows of another basis."""
    course: Course

    @property
    def losses(self) -> list[float]:
        """The mean loss of every batch, or of every whole pass."""
        return list(self.course.losses)


def train(trainer: Trainer, subspace: Subspace, settings: TrainSettings) -> Trained:
    """Collective. Raises `MethodError` when the loss or a gradient is no longer finite."""
    objective = Objective.of(trainer, subspace, settings)
    ending = minimise(objective) if settings.optimiser == "lbfgs" else descend(objective)
    return Trained(
        weights_KG=subspace.weights(objective.theta_MG.detach()),
        course=Course(path=objective.path, losses=objective.losses, prior=objective.prior.to_json(), ending=ending),
    )
