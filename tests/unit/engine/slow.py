"""Training as anybody would write it down first: autograd through `sum_i alpha_i w_i`, all K x D in memory, float64.

Of the engine it knows the names of a group's tensors, the order of batches and the schedule of the rate, and no more:
bases come from the K x D matrices themselves, and the learned prior is plain loops after docs/methods/training.md.

K checkpoints, G groups, M dimensions of a basis, D parameters of one group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ladle_engine.checkpoints import open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.model.groups import Groups
from ladle_engine.training.batch_order import BatchOrder
from ladle_engine.training.settings import TrainSettings, schedule
from tests.unit.engine.toy import ToyData

N = 61
"""Examples, from the fourth of the toy's on; see `toy.trainer_for`."""
RANK = 1e-4
"""A direction of which no larger share is new is no new one."""

AlphaOf = Callable[[Tensor], Tensor]
"""theta -> K x G."""


@dataclass(frozen=True, kw_only=True)
class SlowBasis:
    """`u_g = M_g theta_g`; columns without a use are 0."""

    matrix_GKM: Tensor
    log_variance_MG: Tensor

    def move(self, theta_MG: Tensor) -> Tensor:
        return torch.stack([self.matrix_GKM[g] @ theta_MG[:, g] for g in range(len(self.matrix_GKM))], dim=1)


@dataclass(frozen=True, kw_only=True)
class SlowModel:
    """The checkpoints as float64 tensors, and the toy's loss of any average of them."""

    weights: list[dict[str, Tensor]]
    model: nn.Module
    groups: Groups

    @property
    def K(self) -> int:
        return len(self.weights)

    def directions(self) -> list[Tensor]:
        """G times K x D: what each group's tensors are in each checkpoint, less their mean."""
        found = []
        for g in range(len(self.groups)):
            names = [name for name in self.weights[0] if self.groups.of[name] == g]
            rows = [torch.cat([weights[name].reshape(-1) for name in names]) for weights in self.weights]
            found.append(torch.stack(rows) - torch.stack(rows).mean(dim=0))
        return found

    def loss(self, alpha_KG: Tensor, indices: Tensor) -> Tensor:
        average = {
            name: sum(alpha_KG[i, self.groups.of[name]] * self.weights[i][name] for i in range(self.K))
            for name in self.weights[0]
        }
        batch = ToyData(64).batch(indices)
        return (functional_call(self.model, average, (batch["x"].double(),)) - batch["y"].double()).square().mean()


def slow_model(checkpoints: CheckpointSet, build: Callable[[], nn.Module], groups: Groups) -> SlowModel:
    """In training mode: a BatchNorm sees its batch."""
    model = build().double().train()
    weights = []
    for checkpoint in checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            weights.append({name: reader.read(name).double() for name, _ in model.named_parameters()})
    return SlowModel(weights=weights, model=model, groups=groups)


def around_the_mean(move: AlphaOf, K: int) -> AlphaOf:
    """`alpha = 1/K + u - mean(u)`."""

    def alpha_of(theta_MG: Tensor) -> Tensor:
        u_KG = move(theta_MG)
        return 1 / K + u_KG - u_KG.mean(dim=0)

    return alpha_of


# Bases ----------------------------------------------------------------------------------------------------------------


def slow_basis(name: str, directions: list[Tensor]) -> SlowBasis:
    """Of the K x D directions of each group; columns are as long as those are in the root mean square, but normalised
    ones as long as the whole model's."""
    made = [BASES[name](directions_KD) for directions_KD in directions]
    if name == "normalised":
        length = _rms(torch.cat(directions, dim=1))
        made = [(length * matrix_KM, log_variance_M) for matrix_KM, log_variance_M in made]
    return SlowBasis(
        matrix_GKM=torch.stack([matrix_KM for matrix_KM, _ in made]),
        log_variance_MG=torch.stack([log_variance_M for _, log_variance_M in made], dim=1),
    )


def _rms(directions_KD: Tensor) -> Tensor:
    return directions_KD.norm(dim=1).square().mean().sqrt()


def _own_lengths(directions_KD: Tensor) -> tuple[Tensor, Tensor]:
    K = len(directions_KD)
    return torch.eye(K, dtype=torch.float64), torch.zeros(K, dtype=torch.float64)


def _normalised(directions_KD: Tensor) -> tuple[Tensor, Tensor]:
    return torch.diag(1 / directions_KD.norm(dim=1)), torch.zeros(len(directions_KD), dtype=torch.float64)


def _gram_schmidt(directions_KD: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors themselves are made orthogonal, one after the other; what makes them of the directions goes along."""
    K = len(directions_KD)
    matrix_KM = torch.zeros(K, K, dtype=torch.float64)
    vectors: list[Tensor] = []
    for i in range(K):
        vector_D, makes_K = directions_KD[i].clone(), torch.eye(K, dtype=torch.float64)[i]
        for j, before_D in enumerate(vectors):
            share = before_D @ vector_D
            vector_D, makes_K = vector_D - share * before_D, makes_K - share * matrix_KM[:, j]
        if vector_D.norm() > RANK * directions_KD[i].norm():
            matrix_KM[:, len(vectors)] = makes_K / vector_D.norm()
            vectors.append(vector_D / vector_D.norm())
    return matrix_KM * _rms(directions_KD), torch.zeros(K, dtype=torch.float64)


def _svd(directions_KD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors K x K, singular values, and which of them are more than rounding."""
    K = len(directions_KD)
    wide_KD = torch.nn.functional.pad(directions_KD, (0, max(K - directions_KD.shape[1], 0)))
    vectors_KM, values_M, _ = torch.linalg.svd(wide_KD, full_matrices=False)
    return vectors_KM, values_M, values_M > RANK * values_M[0]


def _principal(directions_KD: Tensor) -> tuple[Tensor, Tensor]:
    vectors_KM, values_M, real_M = _svd(directions_KD)
    matrix_KM = torch.where(real_M, vectors_KM * _rms(directions_KD) / values_M, 0.0)
    return matrix_KM, torch.zeros_like(values_M)


def _principal_axes(directions_KD: Tensor) -> tuple[Tensor, Tensor]:
    vectors_KM, values_M, real_M = _svd(directions_KD)
    relative_M = values_M.square() / values_M[real_M].square().mean()
    return torch.where(real_M, vectors_KM, 0.0), torch.where(real_M, relative_M.log(), 0.0)


BASES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "own lengths": _own_lengths,
    "principal axes": _principal_axes,
    "normalised": _normalised,
    "gram-schmidt": _gram_schmidt,
    "principal": _principal,
}
"""K x D -> the change of basis K x M, and the logarithm of the checkpoints' variance along each axis."""


# The learned prior ----------------------------------------------------------------------------------------------------


@dataclass
class SlowPrior:
    """`theta_mg ~ Normal(0, v_m)` with `log v = a + b x`."""

    log_variance_MG: Tensor
    """x."""
    a: float = math.log(0.3**2)
    b: float = -0.5
    gradients: list[Tensor] = field(default_factory=list)

    def variance(self) -> Tensor:
        return (self.a + self.b * self.log_variance_MG).exp()

    def see(self, theta_MG: Tensor, gradient_MG: Tensor, batch_size: int) -> None:
        """After a batch: at steps 12, 16, 20, ... an EM step sets a and b."""
        self.gradients.append(gradient_MG)
        if len(self.gradients) >= 12 and len(self.gradients) % 4 == 0:
            self._expect_and_maximise(theta_MG, batch_size)

    def _expect_and_maximise(self, theta_MG: Tensor, batch_size: int) -> None:
        """E: each coordinate's expected square under its posterior. M: the a and b under which these are likeliest."""
        seen = []
        for m in range(theta_MG.shape[0]):
            for g in range(theta_MG.shape[1]):
                last = [float(gradient_MG[m, g]) for gradient_MG in self.gradients[-8:]]
                if not any(last):
                    continue  # It cannot move: it says nothing.
                # The variance of one batch's gradient, by differences; times its size: of one example's.
                fisher = batch_size * sum((after - before) ** 2 for before, after in pairwise(last)) / 7 / 2
                x = float(self.log_variance_MG[m, g])
                square = float(theta_MG[m, g]) ** 2 + 1 / (N * fisher + 1 / math.exp(self.a + self.b * x))
                seen.append((x, square))

        def best_a(b: float) -> float:
            """Where the derivative by a is 0."""
            return min(max(math.log(sum(s * math.exp(-b * x) for x, s in seen) / len(seen)), -8.0), 4.0)

        def unlikely(b: float) -> float:
            """Minus twice the expected log prior, at the best a; convex in b."""
            a = best_a(b)
            return sum(s * math.exp(-a - b * x) + a + b * x for x, s in seen)

        low, high = -1.0, 0.5
        if len({x for x, _ in seen}) == 1:
            low = high = self.b  # All axes are alike: there is no slope to see.
        for _ in range(100):
            third = (high - low) / 3
            low, high = (low, high - third) if unlikely(low + third) < unlikely(high - third) else (low + third, high)
        self.b = (low + high) / 2
        self.a = best_a(self.b)


# Training -------------------------------------------------------------------------------------------------------------


def slow_training(
    slow: SlowModel,
    alpha_of: AlphaOf,
    start_MG: Tensor,
    settings: TrainSettings,
    log_variance_MG: Tensor | None = None,
) -> Tensor:
    """float64 K x G: the coefficients after all steps of AdamW or SGD; the learned prior wants `log_variance_MG`."""
    theta_MG = start_MG.clone().requires_grad_()
    optimiser: torch.optim.Optimizer = torch.optim.AdamW([theta_MG], lr=0.1, weight_decay=0.0)
    if settings.optimiser == "sgd":
        optimiser = torch.optim.SGD([theta_MG], lr=0.1, momentum=settings.momentum)
    learned = None
    if settings.prior == "learned":
        assert log_variance_MG is not None
        learned = SlowPrior(log_variance_MG)
    order, path = BatchOrder(N, 8, settings.seed), []
    for step in range(settings.steps):
        loss = slow.loss(alpha_of(theta_MG), torch.arange(3, 3 + N)[order.batch(step)])
        (data_MG,) = torch.autograd.grad(loss, theta_MG)
        for g in range(data_MG.shape[1]):
            if data_MG[:, g].abs().max() <= 1e-6 * data_MG.abs().max():
                data_MG[:, g] = 0.0  # A bias before BatchNorm, say, has nothing but rounding.
        variance = learned.variance() if learned else prior_variance(settings)
        (penalty_MG,) = torch.autograd.grad(penalty(theta_MG - start_MG, variance, settings.l2), theta_MG)
        if learned:
            learned.see((theta_MG - start_MG).detach(), data_MG, batch_size=8)
        theta_MG.grad = data_MG + penalty_MG
        optimiser.param_groups[0]["lr"] = settings.learning_rate * schedule(step, settings)
        optimiser.step()
        path.append(theta_MG.detach().clone())
    last = path[len(path) - round(settings.averaged_fraction * settings.steps) :] or path[-1:]
    return alpha_of(torch.stack(last).mean(dim=0)).detach()


def prior_variance(settings: TrainSettings) -> float:
    return settings.prior**2 if isinstance(settings.prior, float) else math.inf


def penalty(moved_MG: Tensor, variance: Tensor | float, l2: float) -> Tensor:
    """What is added to the mean loss."""
    return (moved_MG.square() / variance).sum() / (2 * N) + l2 / 2 * moved_MG.square().sum()


def slow_lbfgs(slow: SlowModel, alpha_of: AlphaOf, start_MG: Tensor, settings: TrainSettings, passes: int) -> Tensor:
    """float64 K x G: the best point that torch's own L-BFGS sees in so many evaluations of all examples."""
    theta_MG = start_MG.clone().requires_grad_()
    seen: list[tuple[float, Tensor]] = []

    class Enough(Exception):
        pass

    def closure() -> Tensor:
        if len(seen) == passes:
            raise Enough
        theta_MG.grad = None
        objective = slow.loss(alpha_of(theta_MG), torch.arange(3, 3 + N))
        objective = objective + penalty(theta_MG - start_MG, prior_variance(settings), settings.l2)
        objective.backward()
        seen.append((objective.item(), theta_MG.detach().clone()))
        return objective

    optimiser = torch.optim.LBFGS([theta_MG], max_iter=1000, history_size=1000, line_search_fn="strong_wolfe")
    with suppress(Enough):
        optimiser.step(closure)
    return alpha_of(min(seen, key=lambda point: point[0])[1])
