"""One pass: the loss of a combination on some examples, and its gradient by the combination's weights.

Backward gives the gradient of one parameter after the other; hooks project it on the directions (paper, eq. 6) and free
it. See `placements`.

K checkpoints (or rows of another basis), G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ladle_engine.distributed.collectives import Collectives, share_of
from ladle_engine.errors import MethodError
from ladle_engine.model.groups import Groups
from ladle_engine.model.statistics import Statistics
from ladle_engine.placements.base import Placement
from ladle_engine.progress import ProgressCallback
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.examples import Examples, even_batches
from ladle_engine.training.batch_order import ExampleOrder
from ladle_engine.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that one training run needs besides its settings."""

    method: str
    model: nn.Module
    placement: Placement
    statistics: Statistics
    load_statistics: Callable[[Tensor], None]
    """Called with the rows' weights before each pass."""
    groups: Groups
    examples: Examples
    collectives: Collectives
    state: ResumeState
    on_event: ProgressCallback

    @property
    def batches_per_pass(self) -> int:
        return ExampleOrder(self.examples, seed=0).per_pass

    def loss_and_gradient(self, weights_KG: Tensor, indices: Tensor) -> tuple[float, Tensor]:
        """Collective: the mean loss over the examples at `indices`, and its gradient by the rows' weights. Of several
        sets it is the weighted mean of the means over each.

        Each rank takes its share of every batch, so the batches are the same whatever the number of ranks.
        """
        self.placement.load_weights(weights_KG, self.groups)
        return self.loss_and_gradient_here(weights_KG, indices)

    def loss_and_gradient_here(self, weights_KG: Tensor, indices: Tensor) -> tuple[float, Tensor]:
        """The same for a model that holds the combination already."""
        self.statistics.training_mode()
        self.load_statistics(weights_KG)
        loss, gradient_KG = 0.0, torch.zeros_like(weights_KG)
        for set_weight, of_set in self.examples.by_set(indices):
            for batch in even_batches(of_set, self.examples.task.batch_size):
                _, share = share_of(len(batch), self.collectives)
                own, weight = batch[share], set_weight * (share.stop - share.start) / len(of_set)
                if not len(own):
                    # More ranks than examples: backward must run on every rank, because gradients cross within it.
                    own = batch[:1]
                with self.collectives.translate_collective_errors(), self.placement.projecting(self.groups) as measured:
                    measured.loss = self.examples.task.loss(self.model, self.examples.batch(own)) * weight
                    measured.loss.backward()
                loss += float(measured.loss)
                gradient_KG += measured.gradient_KG
        return loss, gradient_KG

    def refuse_infinite(self, loss: float, gradient_KG: Tensor, step: int, settings: TrainSettings) -> None:
        """Raises `MethodError` that names the step and the rate."""
        if math.isfinite(loss) and bool(torch.isfinite(gradient_KG).all()):
            return
        raise MethodError(
            "non-finite-loss",
            f"The loss of method `{self.method}` must be finite, and its gradient too, but at step {step} of "
            f"{settings.steps} the loss is {loss}."
            + (
                f" A smaller `learning_rate` (now {settings.learning_rate}) may help."
                if settings.optimiser != "lbfgs"
                else ""
            ),
        )
