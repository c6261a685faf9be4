"""What a search without gradients moves: some numbers, each about 1 from where it may well have to go, and the
coefficients that they make.

K checkpoints, G groups, M axes, N numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ladle_engine.profiles import POWER, Profile, weights
from ladle_engine.subspace.bases import Basis, Layered, Linear
from ladle_engine.subspace.prior import FIRST_SCALE, FIRST_SLOPE

SHARPEST, FLATTEST = 6.0, -2.0
"""Powers of 2 that `gamma + 1` may be: all but the last one fades, or the first ones get most."""
END_SCALE = 0.25
"""Of the run: how far before its end an average may well have to end."""


class Space(Protocol):
    """A search begins where all numbers are 0."""

    @property
    def numbers(self) -> int:
        """N."""
        ...

    def weights(self, point_N: Tensor) -> Tensor:
        """float64 K x G, each column sums to 1."""
        ...


class Axes:
    """Along the principal axes of the checkpoints: of the whole model, and of each group.

    A number of 1 is what `subspace.prior` expects of a coordinate before anything is seen.
    """

    def __init__(self, subspace: Linear | Layered, dimensions: int) -> None:
        """Of each group the first `dimensions` axes, along which the checkpoints differ most."""
        self._subspace = _cut(subspace, dimensions)
        self._scale_MG = FIRST_SCALE * (FIRST_SLOPE / 2 * self._subspace.log_variance_MG).exp()
        self._moves_MG = _moves(self._subspace)
        self.numbers = int(self._moves_MG.sum())

    def weights(self, point_N: Tensor) -> Tensor:
        theta_MG = self._subspace.start
        theta_MG[self._moves_MG] = point_N * self._scale_MG[self._moves_MG]
        return self._subspace.weights(theta_MG)


@dataclass(frozen=True, kw_only=True)
class OfProfile:
    """A profile of the shape `power`, by three numbers: how far back its window reaches, how it fades, where it ends.

    The window is `2^a` of the run up to the end, from 1 to as little as one checkpoint; `gamma + 1 = 2^b`; and the end
    lies `c` quarters of the run before the last checkpoint, between two of them their profiles' mean. Where a number
    would go too far, the limit is taken. The search begins at the mean of the last half.
    """

    positions: Sequence[float]
    """Of the K checkpoints, rising."""
    numbers: int = 3

    def weights(self, point_N: Tensor) -> Tensor:
        window, fading, before_last = point_N.tolist()
        last = len(self.positions) - 1
        end = last * (1.0 - END_SCALE * min(max(before_last, 0.0), 1.0 / END_SCALE))
        gamma = math.exp2(min(max(fading, FLATTEST), SHARPEST)) - 1.0
        low = min(int(end), last)
        share = end - low
        alpha_K: Tensor = self._ending_at(low, window - 1.0, gamma) * (1.0 - share)
        if share > 0.0:
            alpha_K += self._ending_at(low + 1, window - 1.0, gamma) * share
        return alpha_K[:, None]

    def _ending_at(self, end: int, log_window: float, gamma: float) -> Tensor:
        whole = self.positions[end] - self.positions[0] + self._of_first
        window = max(whole * math.exp2(min(log_window, 0.0)), whole / (end + 1))
        return weights(self.positions, end, Profile(POWER, gamma, window))

    @property
    def _of_first(self) -> float:
        """The first checkpoint stands for as many steps as the second one."""
        return self.positions[1] - self.positions[0] if len(self.positions) > 1 else 1.0


def _cut(subspace: Linear | Layered, dimensions: int) -> Linear | Layered:
    if isinstance(subspace, Linear):
        return replace(subspace, basis=_first(subspace.basis, dimensions))
    return replace(subspace, shared=_first(subspace.shared, dimensions), own=_first(subspace.own, dimensions))


def _first(basis: Basis, dimensions: int) -> Basis:
    return Basis(
        matrix_GKM=basis.matrix_GKM[:, :, :dimensions].contiguous(),
        log_variance_MG=basis.log_variance_MG[:dimensions].contiguous(),
    )


def _moves(subspace: Linear | Layered) -> Tensor:
    """bool M x G: the coordinates that move anything."""
    moves_MG = torch.zeros_like(subspace.log_variance_MG, dtype=torch.bool)
    bases = [subspace.basis] if isinstance(subspace, Linear) else [subspace.shared, subspace.own]
    column = 0
    for basis in bases:
        used_MG = (basis.matrix_GKM.abs().amax(dim=1) > 0).T
        moves_MG[: len(used_MG), column : column + used_MG.shape[1]] = used_MG
        column += used_MG.shape[1]
    return moves_MG
