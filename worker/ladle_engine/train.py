"""The loop over coefficients (paper, Algorithm 1), in `K x G` dimensions.

`w = c + sum_i u_i (w_i - c)`, fitted as a maximum a posteriori: the summed loss over the N examples plus
`|u|^2 / (2 prior^2)`, all divided by N. Backward gives the gradient `g` of one parameter after the other; a hook adds
`(w_i - c)^T g` into the K x G accumulator (eq. 6) and frees it at once, so peak gradient memory is one parameter. The
optimiser steps `u` in float64 (eq. 7), and `w` is rewritten.

K checkpoints, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ladle_engine.binding import Binding
from ladle_engine.buffers import Statistics
from ladle_engine.collectives import Collectives, share_of
from ladle_engine.directions import Directions, alpha_from_u
from ladle_engine.errors import MethodError
from ladle_engine.examples import Examples
from ladle_engine.groups import Groups
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.state import ResumeState

NO_TRUE_GRADIENT = 1e-6
"""A group whose gradient is below this share of the largest one has only rounding noise (a bias before BatchNorm, say),
which an adaptive optimiser would follow at full speed."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How coefficients are trained, in units of the directions' lengths."""

    steps: int
    learning_rate: float
    prior: float
    """The standard deviation that coefficients are expected to have around the mean of the checkpoints."""
    optimiser: str
    warmup_fraction: float
    seed: int


@dataclass(kw_only=True)
class Trained:
    """What training left: `u` (float64, K x G) and the loss of every step."""

    u_KG: Tensor
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that one training run needs besides its settings."""

    method: str
    binding: Binding
    directions: Directions
    statistics: Statistics
    groups: Groups
    live_KG: Tensor
    """bool: the directions that may move; the others stay at 0."""
    examples: Examples
    collectives: Collectives
    state: ResumeState
    tell: ProgressCallback

    def train(self, start_KG: Tensor, settings: TrainSettings) -> Trained:
        """Collective. Raises `MethodError` when the loss or a gradient is no longer finite."""
        u_KG = start_KG.to(torch.float64).clone().requires_grad_()
        optimiser = _optimiser(u_KG, settings)
        trained = Trained(u_KG=u_KG.detach())
        order = BatchOrder(len(self.examples), self.examples.task.batch_size, settings.seed)
        first = self._resume(u_KG, optimiser, trained)
        pace = Pace(self.tell, "train", settings.steps, method=self.method)
        for step in range(first, settings.steps):
            loss, gradient_KG = self.loss_and_gradient(u_KG.detach(), self.examples.indices[order.batch(step)])
            if not (math.isfinite(loss) and bool(torch.isfinite(gradient_KG).all())):
                raise MethodError(
                    "non-finite-loss",
                    f"The loss of method `{self.method}` must be finite, and its gradient too, but at step {step + 1} "
                    f"of {settings.steps} the loss is {loss}. A smaller `learning_rate` (now {settings.learning_rate}) "
                    f"may help.",
                )
            for parameter_group in optimiser.param_groups:
                parameter_group["lr"] = settings.learning_rate * schedule(step, settings)
            # The likelihood's part shrinks with the number of examples: few of them can move coefficients but little.
            u_KG.grad = gradient_KG + u_KG.detach() / (len(self.examples) * settings.prior**2)
            optimiser.step()
            trained.losses.append(loss)
            pace.step(step + 1, loss)
            if self.state.is_due():
                self._save(u_KG, optimiser, trained)
        return trained

    def loss_and_gradient(self, u_KG: Tensor, indices: Tensor) -> tuple[float, Tensor]:
        """Collective: the mean loss over the batch at `indices`, and its gradient by `u` (float64, K x G)."""
        self.directions.place(u_KG, self.groups)
        self.statistics.training_mode()
        self.statistics.place(alpha_from_u(u_KG), self.groups)
        _, share = share_of(len(indices), self.collectives)
        own = indices[share]
        summed = torch.zeros(u_KG.numel() + 1, dtype=torch.float64)
        gradient_KG = summed[:-1].view_as(u_KG)
        if len(own):
            with self._projected(gradient_KG):
                loss = self.examples.task.loss(self.binding.model, self.examples.batch(own)) * (len(own) / len(indices))
                loss.backward()
            summed[-1] = loss.detach()
        self.collectives.sum(summed)
        return float(summed[-1]), self._without_noise(gradient_KG)

    @contextmanager
    def _projected(self, gradient_KG: Tensor) -> Iterator[None]:
        """Inside, each parameter's gradient is projected as it arrives, and freed."""
        handles = []
        for name, parameter in self.binding.parameters.items():
            if not parameter.requires_grad:
                continue
            column_K = gradient_KG[:, self.groups.of[name]]

            def hook(parameter: Tensor, name: str = name, column_K: Tensor = column_K) -> None:
                assert parameter.grad is not None
                column_K += self.directions.project(name, parameter.grad)
                parameter.grad = None

            handles.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _without_noise(self, gradient_KG: Tensor) -> Tensor:
        if not bool(torch.isfinite(gradient_KG).all()):
            # Left as it is, for `train` to refuse: compared with NaN, everything would look like noise.
            return gradient_KG
        gradient_KG = torch.where(self.live_KG, gradient_KG, 0.0)
        largest_G = gradient_KG.abs().amax(dim=0)
        return torch.where(largest_G > NO_TRUE_GRADIENT * largest_G.max(), gradient_KG, 0.0)

    def _resume(self, u_KG: Tensor, optimiser: torch.optim.Optimizer, trained: Trained) -> int:
        saved = self.state.load(f"train-{self.method}")
        if saved is None:
            return 0
        with torch.no_grad():
            u_KG.copy_(saved["u"])
        optimiser.load_state_dict(saved["optimiser"])
        trained.losses.extend(saved["losses"])
        return len(trained.losses)

    def _save(self, u_KG: Tensor, optimiser: torch.optim.Optimizer, trained: Trained) -> None:
        self.state.save(
            f"train-{self.method}",
            {"u": u_KG.detach(), "optimiser": optimiser.state_dict(), "losses": trained.losses},
        )


class BatchOrder:
    """Which examples each step sees: a function of the seed and the step alone, so that a resumed run sees the same.

    Every pass is a fresh shuffle; the short rest of a pass is left out, so all batches weigh the same. Fewer examples
    than a batch are one batch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self._num_examples = num_examples
        self._batch_size = min(batch_size, num_examples)
        self._seed = seed
        self._per_pass = num_examples // self._batch_size
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """int64 [batch_size]: positions among the examples."""
        number, position = divmod(step, self._per_pass)
        if number != self._pass:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 % 2**63 + number)
            self._order = torch.randperm(self._num_examples, generator=generator)
            self._pass = number
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]


def schedule(step: int, settings: TrainSettings) -> float:
    """The share of the learning rate at a step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(settings.warmup_fraction * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def _optimiser(u_KG: Tensor, settings: TrainSettings) -> torch.optim.Optimizer:
    if settings.optimiser == "sgd":
        return torch.optim.SGD([u_KG], lr=settings.learning_rate, momentum=0.9)
    return torch.optim.AdamW([u_KG], lr=settings.learning_rate, weight_decay=0.0)
