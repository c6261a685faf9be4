"""AdamW or SGD: one step per batch, in float64 (paper, Algorithm 1 and eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from ladle_engine.progress import Pace
from ladle_engine.training.batch_order import ExampleOrder
from ladle_engine.training.objective import Objective
from ladle_engine.training.path import Ending, lowest_smoothed
from ladle_engine.training.settings import TrainSettings, schedule


def descend(objective: Objective) -> Ending:
    """AdamW or SGD: one step per batch."""
    mean_MG = torch.zeros_like(objective.subspace.start)
    settings, examples = objective.settings, objective.trainer.examples
    optimiser = first_order(objective.theta_MG, settings)
    order = ExampleOrder(examples, settings.seed)
    if saved := objective.resume(optimiser):
        objective.prior.resume(saved["prior"])
        mean_MG = saved["mean"]
    first_averaged = settings.steps - round(settings.averaged_fraction * settings.steps)
    pace = Pace(objective.trainer.on_event, "train", settings.steps, method=objective.trainer.method, unit="steps")
    for step in range(len(objective.losses), settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings)
        batch = examples.indices[order.batch(step)]
        measured = objective.measure(batch)
        objective.prior.see(objective.theta_MG.detach() - objective.subspace.start, measured.data_MG, len(batch))
        objective.theta_MG.grad = measured.gradient_MG
        optimiser.step()
        if step >= first_averaged:
            mean_MG += (objective.theta_MG.detach() - mean_MG) / (step - first_averaged + 1)
        pace.step(step + 1, measured.loss)
        if objective.trainer.state.is_due():
            objective.save(optimiser, prior=objective.prior.state(), mean=mean_MG)
    averages = first_averaged < settings.steps
    if averages:
        with torch.no_grad():
            objective.theta_MG.copy_(mean_MG)
    return Ending(
        how="steps",
        best_at=lowest_smoothed(objective.losses),
        averaged_from=first_averaged if averages else None,
    )


def first_order(theta_MG: Tensor, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over theta."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD([theta_MG], lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW([theta_MG], lr=settings.learning_rate, weight_decay=0.0)
