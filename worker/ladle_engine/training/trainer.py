"""The loop over coefficients (paper, Algorithm 1), in M x G dimensions.

What is minimised is a maximum a posteriori: the mean loss over the N examples, plus `|theta|^2 / (2 N prior^2)`.
Backward gives the gradient of one parameter after the other; hooks project it on the directions (eq. 6) and free it.
The optimiser steps `theta` in float64 (eq. 7), and the model is placed again. See `subspace`, `prior` and `placements`.

K checkpoints (or rows of another basis), G groups, M dimensions of the basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.distributed.collectives import Collectives, share_of
from ladle_engine.errors import MethodError
from ladle_engine.model.groups import Groups
from ladle_engine.model.statistics import Statistics
from ladle_engine.placements.base import Placement
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.bases import Subspace
from ladle_engine.subspace.prior import LEARNED, Given, Learned, Prior
from ladle_engine.tasks.examples import Examples
from ladle_engine.training.batch_order import BatchOrder
from ladle_engine.training.settings import TrainSettings, schedule

NO_TRUE_GRADIENT = 1e-6
"""A group whose gradient is below this share of the largest one has only rounding noise (a bias before BatchNorm, say),
which an adaptive optimiser would follow at full speed."""


@dataclass(kw_only=True)
class Trained:
    """What training left."""

    weights_KG: Tensor
    """float64: of the checkpoints, or of the rows of another basis."""
    losses: list[float] = field(default_factory=list)
    """The mean loss of every batch, or of every whole pass."""


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
        return BatchOrder(len(self.examples), self.examples.task.batch_size, seed=0).per_pass

    def train(self, subspace: Subspace, settings: TrainSettings) -> Trained:
        """Collective. Raises `MethodError` when the loss or a gradient is no longer finite."""
        theta_MG = subspace.start.clone().requires_grad_()
        run = _Run(
            trainer=self,
            subspace=subspace,
            settings=settings,
            theta_MG=theta_MG,
            prior=_prior(settings.prior, subspace, len(self.examples)),
            mean_MG=torch.zeros_like(subspace.start),
        )
        if settings.optimiser == "lbfgs":
            run.minimise()
        else:
            run.descend()
        return Trained(weights_KG=subspace.weights(theta_MG.detach()), losses=run.losses)

    def loss_and_gradient(self, weights_KG: Tensor, indices: Tensor) -> tuple[float, Tensor]:
        """Collective: the mean loss over the examples at `indices`, and its gradient by the rows' weights.

        Each rank takes its share of every batch, so the batches are the same whatever the number of ranks.
        """
        self.placement.load_weights(weights_KG, self.groups)
        return self.loss_and_gradient_here(weights_KG, indices)

    def loss_and_gradient_here(self, weights_KG: Tensor, indices: Tensor) -> tuple[float, Tensor]:
        """The same for a model that holds the combination already."""
        self.statistics.training_mode()
        self.load_statistics(weights_KG)
        loss, gradient_KG = 0.0, torch.zeros_like(weights_KG)
        # Cut evenly: a short last part would weigh as little as it is long, but have batch statistics of its own.
        for batch in indices.tensor_split(math.ceil(len(indices) / self.examples.task.batch_size)):
            _, share = share_of(len(batch), self.collectives)
            own, weight = batch[share], (share.stop - share.start) / len(indices)
            if not len(own):
                # More ranks than examples: backward must run on every rank, for gradients cross within it.
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


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What a batch says at one point."""

    loss: float
    objective: float
    """With what the prior and `l2` add."""
    gradient_MG: Tensor
    """Of the objective, by theta."""
    data_MG: Tensor
    """Of the loss alone."""


@dataclass(kw_only=True)
class _Run:
    """One training run: what is minimised, and how far it has come."""

    trainer: Trainer
    subspace: Subspace
    settings: TrainSettings
    theta_MG: Tensor
    prior: Prior
    mean_MG: Tensor
    """Of theta, over the steps that are averaged so far."""
    losses: list[float] = field(default_factory=list)

    def descend(self) -> None:
        """AdamW or SGD: one step a batch."""
        settings, examples = self.settings, self.trainer.examples
        optimiser = _first_order(self.theta_MG, settings)
        order = BatchOrder(len(examples), examples.task.batch_size, settings.seed)
        if saved := self._resume(optimiser):
            self.prior.resume(saved["prior"])
            self.mean_MG = saved["mean"]
        first_averaged = settings.steps - round(settings.averaged_fraction * settings.steps)
        pace = Pace(self.trainer.on_event, "train", settings.steps, method=self.trainer.method)
        for step in range(len(self.losses), settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, settings)
            batch = examples.indices[order.batch(step)]
            measured = self._measure(batch)
            self.prior.see(self.theta_MG.detach() - self.subspace.start, measured.data_MG, len(batch))
            self.theta_MG.grad = measured.gradient_MG
            optimiser.step()
            if step >= first_averaged:
                self.mean_MG += (self.theta_MG.detach() - self.mean_MG) / (step - first_averaged + 1)
            self.losses.append(measured.loss)
            pace.step(step + 1, measured.loss)
            if self.trainer.state.is_due():
                self._save(optimiser, prior=self.prior.state(), mean=self.mean_MG)
        if first_averaged < settings.steps:
            with torch.no_grad():
                self.theta_MG.copy_(self.mean_MG)

    def minimise(self) -> None:
        """L-BFGS on the whole split, with a line search and so without a learning rate (P-BFGS of Li et al. 2022).

        A learned prior stays what it is at first: one gradient of all examples has no scatter to learn from. It ends
        with the best point seen when its passes are used up or nothing improves any more.
        """
        examples = self.trainer.examples
        passes = self.settings.steps
        optimiser = torch.optim.LBFGS(
            [self.theta_MG], lr=1.0, max_iter=1, max_eval=passes, history_size=passes, line_search_fn="strong_wolfe"
        )
        # Every step of torch's begins with the point at which the line search before it ended: known already.
        known: list[_Point] = []
        if saved := self._resume(optimiser):
            known = [_Point(*point) for point in saved["known"]]
        pace = Pace(self.trainer.on_event, "train", passes, method=self.trainer.method)

        def closure() -> Tensor:
            point = next((point for point in known if torch.equal(point.theta_MG, self.theta_MG)), None)
            if point is None:
                if len(self.losses) >= passes:
                    raise _PassesUsedUp
                measured = self._measure(examples.indices)
                point = _Point(self.theta_MG.detach().clone(), measured.objective, measured.gradient_MG)
                known.append(point)
                self.losses.append(measured.loss)
                pace.step(len(self.losses), measured.loss)
            self.theta_MG.grad = point.gradient_MG.clone()
            return torch.tensor(point.objective, dtype=torch.float64)

        lowest = math.inf
        try:
            while len(self.losses) < passes:
                optimiser.step(closure)
                best = min(known, key=lambda point: point.objective)
                if not best.objective < lowest:
                    break
                lowest = best.objective
                # The best may be another point of the line search than the one at which it ended.
                known[:] = [point for point in known if point is best or torch.equal(point.theta_MG, self.theta_MG)]
                if self.trainer.state.is_due():
                    self._save(optimiser, known=[astuple(point) for point in known])
        except _PassesUsedUp:
            pass
        with torch.no_grad():
            self.theta_MG.copy_(min(known, key=lambda point: point.objective).theta_MG)

    def _measure(self, indices: Tensor) -> _Measured:
        """What a batch says at theta or, with `sam_radius`, uphill of it."""
        here = self._at(self.theta_MG.detach(), indices)
        length = here.gradient_MG.norm()
        if not self.settings.sam_radius or not length > 0:
            return here
        uphill_MG = self.theta_MG.detach() + self.settings.sam_radius * here.gradient_MG / length
        return replace(self._at(uphill_MG, indices), loss=here.loss)

    def _at(self, theta_MG: Tensor, indices: Tensor) -> _Measured:
        theta_MG = theta_MG.detach().requires_grad_()
        weights_KG = self.subspace.weights(theta_MG)
        loss, gradient_KG = self.trainer.loss_and_gradient(weights_KG.detach(), indices)
        self.trainer.refuse_infinite(loss, gradient_KG, len(self.losses) + 1, self.settings)
        (data_MG,) = torch.autograd.grad(weights_KG, theta_MG, gradient_KG)
        data_MG = without_noise(data_MG)
        moved_MG = theta_MG.detach() - self.subspace.start
        # Divided by the number of examples: few of them can move coefficients but little.
        pull_MG = moved_MG / (len(self.trainer.examples) * self.prior.variance()) + self.settings.l2 * moved_MG
        return _Measured(
            loss=loss,
            objective=loss + float((moved_MG * pull_MG).sum()) / 2,
            gradient_MG=(data_MG + pull_MG).contiguous(),
            data_MG=data_MG,
        )

    def _resume(self, optimiser: torch.optim.Optimizer) -> Mapping[str, Any] | None:
        saved = self.trainer.state.load(f"train-{self.trainer.method}")
        if saved is not None:
            with torch.no_grad():
                self.theta_MG.copy_(saved["theta"])
            optimiser.load_state_dict(saved["optimiser"])
            self.losses.extend(saved["losses"])
        return saved

    def _save(self, optimiser: torch.optim.Optimizer, **more: Any) -> None:
        self.trainer.state.save(
            f"train-{self.trainer.method}",
            {"theta": self.theta_MG.detach(), "optimiser": optimiser.state_dict(), "losses": self.losses, **more},
        )


def _prior(asked: float | str | None, subspace: Subspace, examples: int) -> Prior:
    if asked == LEARNED:
        return Learned(log_variance_MG=subspace.log_variance_MG, examples=examples)
    assert not isinstance(asked, str), "options are checked before"
    return Given(scale=math.inf if asked is None else asked)


class _PassesUsedUp(Exception):
    """Leaves a line search."""


@dataclass(frozen=True)
class _Point:
    """Where L-BFGS has been."""

    theta_MG: Tensor
    objective: float
    gradient_MG: Tensor


def without_noise(gradient_MG: Tensor) -> Tensor:
    """Zero for the groups that have no true gradient; see `NO_TRUE_GRADIENT`."""
    largest_G = gradient_MG.abs().amax(dim=0)
    return torch.where(largest_G > NO_TRUE_GRADIENT * largest_G.max(), gradient_MG, 0.0)


def _first_order(theta_MG: Tensor, settings: TrainSettings) -> torch.optim.Optimizer:
    if settings.optimiser == "sgd":
        return torch.optim.SGD([theta_MG], lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW([theta_MG], lr=settings.learning_rate, weight_decay=0.0)
