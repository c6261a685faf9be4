"""Two factors of a given rank for what adapters add to a layer, by QR and the SVD of a small matrix.

`B A` of the shapes [O, Q] and [Q, I] is never multiplied out: with `B = Q_b R_b` and `A^T = Q_a R_a` it is
`Q_b (R_b R_a^T) Q_a^T`, and the matrix in the middle has at most Q rows. Its SVD gives the best factors of each rank.

Shape suffixes: O outputs, I inputs, Q the rank before, N the rank after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.checkpoints.adapters.modules import Module

EXACT = 1e-6
"""A relative error below it is rounding: what float32 holds is not known better."""


DEFAULT_ERROR = 0.01


@dataclass(frozen=True, kw_only=True)
class RankRule:
    """Which rank a mixture of adapters is written with."""

    rank: int | None = None
    """This one; None for the smallest with at most `error`."""
    error: float = DEFAULT_ERROR
    """Of the sum over all layers, relative: the norm of what is cut off over the norm of all."""

    def choose(self, singular_values: Mapping[str, Tensor]) -> tuple[int, float]:
        """The rank, and its relative error."""
        longest = max(len(values) for values in singular_values.values())
        if self.rank is not None:
            return self.rank, relative_error(singular_values, self.rank)
        for rank in range(1, longest + 1):
            if (error := relative_error(singular_values, rank)) <= max(self.error, EXACT):
                return rank, error
        return longest, 0.0


def relative_error(singular_values: Mapping[str, Tensor], rank: int) -> float:
    """Of all layers together, cut to one rank."""
    cut = math.fsum(float((values[rank:] ** 2).sum()) for values in singular_values.values())
    whole = math.fsum(float((values**2).sum()) for values in singular_values.values())
    return math.sqrt(cut / whole) if whole else 0.0


@dataclass(frozen=True, kw_only=True)
class Factored:
    """What adapters add to all layers, with one rank."""

    rank: int
    error: float
    """Relative, of all layers together."""
    errors: Mapping[int, float]
    """The same for ranks from 1, doubled each time, up to one without error."""
    factors: Mapping[str, tuple[Tensor, Tensor]]
    """Layer -> `A` [N, I] and `B` [O, N], float64."""


def refactor(modules: Mapping[str, Module], tensor: Callable[[str], Tensor], rule: RankRule) -> Factored:
    """`tensor(name)` is the mixture's factor of that name."""
    parts = {layer: _svd(tensor(module.a).flatten(1), tensor(module.b).flatten(1)) for layer, module in modules.items()}
    singular_values = {layer: values for layer, (_, values, _) in parts.items()}
    rank, error = rule.choose(singular_values)
    return Factored(
        rank=rank,
        error=error,
        errors=_errors(singular_values),
        factors={layer: _cut(*each, rank) for layer, each in parts.items()},
    )


def _svd(a_QI: Tensor, b_OQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, singular values and V^T of `B A`."""
    left_OQ, b_QQ = torch.linalg.qr(b_OQ.detach().cpu().double())
    right_IQ, a_QQ = torch.linalg.qr(a_QI.detach().cpu().double().T)
    u, values, vh = torch.linalg.svd(b_QQ @ a_QQ.T, full_matrices=False)
    return left_OQ @ u, values, vh @ right_IQ.T


def _cut(u: Tensor, values: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Both factors get the square roots, so that they are of one size. Beyond the layer's own rank are zeros."""
    roots = values[:rank].sqrt()
    a_NI, b_ON = u.new_zeros(rank, vh.shape[1]), u.new_zeros(len(u), rank)
    a_NI[: len(roots)] = roots[:, None] * vh[:rank]
    b_ON[:, : len(roots)] = u[:, :rank] * roots
    return a_NI, b_ON


def _errors(singular_values: Mapping[str, Tensor]) -> dict[int, float]:
    longest = max(len(values) for values in singular_values.values())
    found: dict[int, float] = {}
    rank = 1
    while True:
        found[rank] = relative_error(singular_values, rank)
        if rank >= longest or found[rank] <= EXACT:
            return found
        rank = min(2 * rank, longest)
