"""Random bases: directions that are drawn and not taken from checkpoints, whole-model, by layer, or anew each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ladle_engine.coefficients import Coefficients, RandomPart
from ladle_engine.directions.random_directions import RandomDirections
from ladle_engine.errors import MethodError
from ladle_engine.methods.base import TrainedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.starts import never_below_start, start_of
from ladle_engine.methods.trained import MAX_PRIOR, MIN_PRIOR, PRIOR_HELP, TrainedOptions, trainer_for
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups, group
from ladle_engine.options import option
from ladle_engine.progress import Pace
from ladle_engine.subspace.bases import Scaled
from ladle_engine.training.batch_order import ExampleOrder
from ladle_engine.training.settings import TrainSettings, schedule
from ladle_engine.training.train import train
from ladle_engine.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class RandomOptions(TrainedOptions):
    prior: float | str | None = option(None, PRIOR_HELP, at_least=MIN_PRIOR, at_most=MAX_PRIOR)
    dimensions: int = option(16, "how many random directions per group", at_least=1)
    redraw: bool = option(False, "draw new directions at every step, and take one step of gradient descent along them")

    def check(self, owner: str) -> None:
        """Raises `MethodError` for what would mean nothing from one basis to the next."""
        if self.redraw:
            unused = ("optimiser", "passes", "momentum", "averaged_fraction", "prior", "l2", "sam_radius")
            self.refuse_others(unused, owner, "`redraw`, which is plain gradient descent")
        super().check(owner)


class RandomBases(TrainedMethod):
    name: ClassVar[str] = "random"
    summary: ClassVar[str] = (
        "Trains along random directions from the mean: a baseline that uses no checkpoint differences."
    )
    formula: ClassVar[tuple[str, ...]] = ("w = w_start + sum_m theta_m s r_m", "r_m in {-1, +1}^D", "s = d / sqrt(D)")
    reference: ClassVar[str] = (
        "Li et al. 2018, Measuring the Intrinsic Dimension of Objective Landscapes; by layer and re-drawn: Gressmann "
        "et al. 2020, Improving Neural Network Training in Low Dimensional Random Bases"
    )
    reference_url: ClassVar[str] = "https://arxiv.org/abs/1804.08838"
    options_type: ClassVar[type] = RandomOptions
    combines_checkpoints: ClassVar[bool] = False

    def check(self, options: RandomOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        if options.dimensions > binding.num_parameters:
            raise MethodError(
                "invalid-method-options",
                f"`dimensions` of method `random` must be at most the number of parameters "
                f"({binding.num_parameters}), but is {options.dimensions}.",
            )

    def choose(self, context: MethodContext, options: RandomOptions) -> Choice:
        groups = group(context.binding, options.groups)
        start = Coefficients(
            checkpoints=context.checkpoints.names,
            groups=groups.names,
            group_of=groups.of,
            alpha_KG=start_of(context, self.name, options.start, groups),
        )
        context.load_weights(start, exactly=True)
        placement = context.weights.random_placement(groups, context.seed, options.dimensions)
        subspace = Scaled(scale_G=_scale_G(context, groups), dimensions=options.dimensions)
        trainer = trainer_for(context, self.name, groups, placement, start.alpha_KG)
        settings = options.settings(context.seed, trainer.batches_per_pass)
        if options.redraw:
            weights_TMG, losses = self._redrawn(context, trainer, subspace, settings)
        else:
            trained = train(trainer, subspace, settings)
            weights_TMG, losses = trained.weights_KG[None], trained.losses
        placement.close()
        described = [f"{options.dimensions} directions"]
        described += [f"{len(groups)} groups"] * (len(groups) > 1) + ["re-drawn"] * options.redraw
        choice = Choice(
            coefficients=Coefficients(
                checkpoints=start.checkpoints,
                groups=start.groups,
                group_of=start.group_of,
                alpha_KG=start.alpha_KG,
                random=RandomPart(seed=context.seed, weights_TMG=weights_TMG),
            ),
            label=f"{self.name} ({', '.join(described)})",
            losses=losses,
        )
        return never_below_start(context, options.start, choice)

    def _redrawn(
        self,
        context: MethodContext,
        trainer: Trainer,
        subspace: Scaled,
        settings: TrainSettings,
    ) -> tuple[Tensor, list[float]]:
        """Gradient descent without momentum, which has no meaning from one basis to the next. float64 T x M x G."""
        directions = trainer.placement.directions
        assert isinstance(directions, RandomDirections)
        key = f"train-{self.name}"
        saved = context.state.load(key) or {"weights": [], "losses": []}
        steps: list[Tensor] = list(saved["weights"])
        losses: list[float] = list(saved["losses"])
        for draw, weights_MG in enumerate(steps):
            _go(context, trainer, directions, draw, weights_MG)
        order = ExampleOrder(trainer.examples, settings.seed)
        pace = Pace(context.on_event, "train", settings.steps, method=self.name, unit="steps")
        for step in range(len(steps), settings.steps):
            loss, gradient_MG = trainer.loss_and_gradient(subspace.start, trainer.examples.indices[order.batch(step)])
            trainer.refuse_infinite(loss, gradient_MG, step + 1, settings)
            rate = settings.learning_rate * schedule(step, settings)
            # By theta the gradient is `scale * gradient`, and a step of theta is `scale` times as long in weights.
            weights_MG = -rate * subspace.scale_G.square() * gradient_MG
            _go(context, trainer, directions, step, weights_MG)
            steps.append(weights_MG)
            losses.append(loss)
            pace.step(step + 1, loss)
            if context.state.is_due():
                context.state.save(key, {"weights": steps, "losses": losses})
        return torch.stack(steps), losses


def _go(context: MethodContext, trainer: Trainer, directions: RandomDirections, draw: int, weights_MG: Tensor) -> None:
    """Step number `draw`: the model moves along that draw's directions, and the next ones start from there."""
    trainer.placement.load_weights(weights_MG, trainer.groups)
    directions.draw_at(draw + 1, context.binding.parameters)


def _scale_G(context: MethodContext, groups: Groups) -> Tensor:
    """float64 G: random signs have the length `sqrt(P)`; a step of 1 shall be as long as a checkpoint is far."""
    sizes_G = torch.zeros(len(groups), dtype=torch.float64)
    for name, parameter in context.binding.parameters.items():
        sizes_G[groups.of[name]] += parameter.numel()
    return context.geometry.scale_G(groups) / sizes_G.clamp(min=1).sqrt()
