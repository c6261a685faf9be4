"""P-SGD: the gradient is projected and the weights themselves are stepped, with momentum (paper, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ladle_engine.methods.base import TrainedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.starts import CENTRE, START_HELP, never_below_start, start_of
from ladle_engine.methods.trained import as_choice, trainer_for
from ladle_engine.model.groups import HELP, Grouping, Groups, group
from ladle_engine.model.local_shard import local_part
from ladle_engine.options import option
from ladle_engine.progress import Pace
from ladle_engine.subspace.bases import BASES
from ladle_engine.training.batch_order import ExampleOrder
from ladle_engine.training.objective import without_noise
from ladle_engine.training.path import CoefficientPath, Course, Ending, lowest_smoothed
from ladle_engine.training.settings import SCHEDULES, TrainSettings, schedule
from ladle_engine.training.train import Trained

SETTLED_EVERY = 16
"""Steps after which weights and momentum are made again from their coefficients, which takes out the rounding that has
gathered, and is where a run can be resumed bit for bit."""


@dataclass(frozen=True, kw_only=True)
class PsgdOptions:
    steps: int = option(40, "gradient steps, each on one batch", at_least=1)
    learning_rate: float = option(
        0.02, "step size of the weights, in units of the directions' squared length", above=0.0
    )
    momentum: float = option(0.9, "of the weights", at_least=0.0, at_most=0.9999)
    schedule: str = option(
        "constant", "of the learning rate, after the warm-up: cosine, linear, constant or step", one_of=SCHEDULES
    )
    warmup_fraction: float = option(
        0.0, "share of the steps in which the learning rate rises", at_least=0.0, at_most=1.0
    )
    start: str = option(CENTRE, START_HELP)
    groups: Grouping = option("model", HELP)
    basis: str = option(
        "gram-schmidt",
        "basis of the projection: one of the bases of `twa`, which all span the same space",
        one_of=tuple(BASES),
    )

    def settings(self, seed: int) -> TrainSettings:
        return TrainSettings(
            steps=self.steps,
            learning_rate=self.learning_rate,
            optimiser="sgd",
            momentum=self.momentum,
            schedule=self.schedule,
            warmup_fraction=self.warmup_fraction,
            averaged_fraction=0.0,
            prior=None,
            l2=0.0,
            sam_radius=0.0,
            seed=seed,
        )


class Psgd(TrainedMethod):
    """`v <- momentum v + P P^T g; w <- w - rate v`.

    In exact arithmetic this is SGD with momentum on the coefficients (`twa` with the same basis, `optimiser: sgd` and
    no prior), at four more vectors of the model's size. Adaptive optimisers would differ, because they are not linear.
    """

    name: ClassVar[str] = "psgd"
    summary: ClassVar[str] = "SGD with momentum on the weights, its gradient projected on the checkpoints' subspace."
    formula: ClassVar[tuple[str, ...]] = ("v <- momentum v + P P^T g", "w <- w - rate v")
    reference: ClassVar[str] = (
        "Li et al. 2023, Algorithm 1; Li et al. 2022, Low Dimensional Trajectory Hypothesis (P-SGD)"
    )
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2205.13104"
    options_type: ClassVar[type] = PsgdOptions
    weight_vectors: ClassVar[int] = 4
    """At its peak: the momentum, its next value, a projected gradient and the weights set aside."""

    def choose(self, context: MethodContext, options: PsgdOptions) -> Choice:
        groups = group(context.binding, options.groups)
        alpha_0_KG = start_of(context, self.name, options.start, groups)
        settings = options.settings(context.seed)
        trainer = trainer_for(context, self.name, groups)
        basis_GKM = BASES[options.basis](context.geometry, groups).matrix_GKM
        projector_GKK = basis_GKM @ basis_GKM.mT
        state = context.state.load(f"train-{self.name}") or {
            "u": torch.zeros_like(alpha_0_KG),
            "velocity": torch.zeros_like(alpha_0_KG),
            "losses": [],
        }
        path = CoefficientPath(total=settings.steps)
        if "path" in state:
            path.resume(state["path"])
        # The coefficients of what the weights and their momentum are: every step is linear in them.
        u_KG, velocity_KG, losses = state["u"], state["velocity"], list(state["losses"])
        parameters = list(context.binding.parameters.values())
        optimiser = torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum)
        order = ExampleOrder(trainer.examples, settings.seed)
        pace = Pace(context.on_event, "train", settings.steps, method=self.name, unit="steps")
        for step in range(len(losses), settings.steps):
            if step % SETTLED_EVERY == 0:
                if context.state.is_due():
                    context.state.save(
                        f"train-{self.name}",
                        {"u": u_KG, "velocity": velocity_KG, "losses": list(losses), "path": path.state()},
                    )
                _settle(context, groups, optimiser, alpha_0_KG + centred(u_KG), velocity_KG, started=step > 0)
            rate = settings.learning_rate * schedule(step, settings)
            indices = trainer.examples.indices[order.batch(step)]
            weights_KG = alpha_0_KG + centred(u_KG)
            path.see(step, weights_KG)
            loss, gradient_KG = trainer.loss_and_gradient_here(weights_KG, indices)
            trainer.refuse_infinite(loss, gradient_KG, step + 1, settings)
            direction_KG = torch.einsum("gij,jg->ig", projector_GKK, without_noise(gradient_KG))
            _step(context, groups, optimiser, direction_KG, rate)
            velocity_KG = settings.momentum * velocity_KG + direction_KG if step else direction_KG.clone()
            u_KG = u_KG - rate * velocity_KG
            losses.append(loss)
            pace.step(step + 1, loss)
        ending = Ending(how="steps", best_at=lowest_smoothed(losses))
        course = Course(path=path, losses=losses, prior={"kind": "none"}, ending=ending)
        trained = Trained(weights_KG=alpha_0_KG + centred(u_KG), course=course)
        return never_below_start(context, options.start, as_choice(context, self.name, groups, trained))


def centred(u_KG: Tensor) -> Tensor:
    """Weights that sum to 0: a vector without the centre."""
    return u_KG - u_KG.mean(dim=0, keepdim=True)


def _vector(context: MethodContext, groups: Groups, u_KG: Tensor) -> list[Tensor]:
    """`sum_i u_i (w_i - c)`, this rank's part of each parameter. Leaves the model's weights as they were."""
    kept = [local_part(parameter)[0].clone() for parameter in context.binding.parameters.values()]
    context.weights.placement(groups).load_weights(centred(u_KG), groups)
    vector = []
    for parameter, weights in zip(context.binding.parameters.values(), kept, strict=True):
        local, _ = local_part(parameter)
        vector.append(local.clone())
        local.copy_(weights)
    return vector


@torch.no_grad()
def _step(
    context: MethodContext, groups: Groups, optimiser: torch.optim.SGD, direction_KG: Tensor, rate: float
) -> None:
    projected = _vector(context, groups, direction_KG)
    for parameter, gradient in zip(context.binding.parameters.values(), projected, strict=True):
        parameter.grad = torch.zeros_like(parameter)
        local_part(parameter.grad)[0].copy_(gradient)
    optimiser.param_groups[0]["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def _settle(
    context: MethodContext,
    groups: Groups,
    optimiser: torch.optim.SGD,
    alpha_KG: Tensor,
    velocity_KG: Tensor,
    started: bool,
) -> None:
    if started:
        momentum = _vector(context, groups, velocity_KG)
        for parameter, values in zip(context.binding.parameters.values(), momentum, strict=True):
            buffer = torch.zeros_like(parameter)
            local_part(buffer)[0].copy_(values)
            optimiser.state[parameter]["momentum_buffer"] = buffer
    context.weights.placement(groups).load_weights(alpha_KG, groups)
