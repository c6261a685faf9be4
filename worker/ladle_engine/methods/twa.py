"""Trainable Weight Averaging: centre and normalise (journal version), whole-model and by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.directions import alpha_from_u
from ladle_engine.groups import GROUPINGS
from ladle_engine.methods.base import Choice
from ladle_engine.options import option
from ladle_engine.train import Trainer, TrainSettings
from ladle_engine.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TwaOptions:
    """Rates and decay are in units of the directions' lengths, so they fit every model."""

    steps: int = option(96, "gradient steps, each on one batch", at_least=1)
    learning_rate: float = option(0.1, "of the coefficients, as a share of a direction's length", above=0.0)
    prior: float = option(
        0.2,
        "how far coefficients are expected from the mean, in directions' lengths; a smaller one holds harder",
        above=0.0,
    )
    optimiser: str = option("adamw", "adamw, or sgd with momentum 0.9", one_of=("adamw", "sgd"))
    warmup_fraction: float = option(0.1, "share of the steps with a rising rate", at_least=0.0, at_most=1.0)
    groups: str = option("model", "what shares a coefficient: model, layers or tensors", one_of=tuple(GROUPINGS))


@dataclass(frozen=True, kw_only=True)
class TwaLayerwiseOptions(TwaOptions):
    groups: str = option("layers", "what shares a coefficient: model, layers or tensors", one_of=tuple(GROUPINGS))


class Twa:
    name: ClassVar[str] = "twa"
    summary: ClassVar[str] = "Trains one coefficient per checkpoint by gradient descent, starting at the mean."
    reference: ClassVar[str] = "Li et al. 2023, Trainable Weight Averaging, eqs. 3-7 and Algorithm 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2205.13104"
    options_type: ClassVar[type] = TwaOptions

    def choose(self, work: Workspace, options: TwaOptions) -> Choice:
        groups = GROUPINGS[options.groups](work.binding)
        trainer = Trainer(
            method=self.name,
            binding=work.binding,
            directions=work.directions(),
            statistics=work.statistics,
            groups=groups,
            live_KG=work.geometry.live_KG(groups),
            examples=work.coefficient_examples,
            collectives=work.collectives,
            state=work.state,
            tell=work.tell,
        )
        settings = TrainSettings(
            steps=options.steps,
            learning_rate=options.learning_rate,
            prior=options.prior,
            optimiser=options.optimiser,
            warmup_fraction=options.warmup_fraction,
            seed=work.seed,
        )
        work.use_reference_counters()
        centre_KG = torch.zeros(len(work.checkpoints.names), len(groups), dtype=torch.float64)
        trained = trainer.train(centre_KG, settings)
        coefficients = Coefficients(
            checkpoints=work.checkpoints.names,
            groups=groups.names,
            group_of=groups.of,
            alpha_KG=alpha_from_u(trained.u_KG),
        )
        label = self.name if len(groups) == 1 else f"{self.name} ({len(groups)} groups)"
        return Choice(coefficients=coefficients, label=label, losses=trained.losses)


class TwaLayerwise(Twa):
    name: ClassVar[str] = "twa-layerwise"
    summary: ClassVar[str] = "Trains one coefficient per checkpoint and layer."
    reference: ClassVar[str] = "Li et al. 2023, Trainable Weight Averaging, section 4.3 and eq. 8"
    options_type: ClassVar[type] = TwaLayerwiseOptions
