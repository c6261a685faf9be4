"""The plane through three models, as in figure 1 of Li et al. 2023; made as by Garipov et al. 2018, appendix.

No vector of the model's size is needed: a point is a set of coefficients, and lengths come from the Gram matrices of
the directions. Coefficients stand here tensor by tensor, whatever their groups are.

K checkpoints, T parameter tensors, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients
from ladle_engine.subspace.geometry import Geometry

SIDE = 11
"""Points along each axis."""
MARGIN = 0.4
"""Beyond the three points on each side, as a share of the longer side."""
OFF_THE_LINE = 1e-3
"""As a share of the distance between the first two points: nearer to their line a third one makes no plane."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Through `origin`; the axes are orthonormal in the weights, and sums of coefficients along them are 0."""

    geometry: Geometry
    origin: Coefficients
    axes_2KG: Tensor
    """In the groups of `origin`."""

    def coordinates(self, coefficients: Coefficients) -> Point:
        """Of the point of the plane that is nearest to a model."""
        moved_KT = per_tensor(coefficients, self.geometry) - per_tensor(self.origin, self.geometry)
        x, y = (float((moved_KT * dual_KT).sum()) for dual_KT in self._duals())
        return x, y

    def coordinates_of_checkpoints(self) -> list[Point]:
        """The same of each checkpoint."""
        origin_KT = per_tensor(self.origin, self.geometry)
        xs, ys = ((dual_KT.sum(dim=1) - float((origin_KT * dual_KT).sum())).tolist() for dual_KT in self._duals())
        return list(zip(xs, ys, strict=True))

    def at(self, x: float, y: float) -> Coefficients:
        return replace(self.origin, alpha_KG=self.origin.alpha_KG + x * self.axes_2KG[0] + y * self.axes_2KG[1])

    def _duals(self) -> list[Tensor]:
        """Gram matrix times axis: the inner product with it is that in the weights."""
        of_tensors = [replace(self.origin, alpha_KG=axis_KG) for axis_KG in self.axes_2KG]
        return [_dual(per_tensor(each, self.geometry), self.geometry) for each in of_tensors]


def is_placeable(coefficients: Coefficients) -> bool:
    """Whether it is a point among the checkpoints, of which Gram matrices of directions tell all."""
    sums_G = coefficients.alpha_KG.sum(dim=0)
    of_checkpoints = coefficients.random is None and not coefficients.base
    return of_checkpoints and bool(((sums_G - 1).abs() <= SUM_TOLERANCE).all())


def plane_through(geometry: Geometry, origin: Coefficients, second: Coefficients, third: Coefficients) -> Plane | None:
    """The first axis goes from the origin to the second point. None where the three lie on a line.

    `origin` and `second` have one group, or those of `third`.
    """
    start_KG, first_KG = (_grouped(each, third) for each in (origin, second))
    origin = replace(third, alpha_KG=start_KG)
    axes: list[Tensor] = []
    scale = 0.0
    for moved_KG in (first_KG - start_KG, third.alpha_KG - start_KG):
        # Twice, because once leaves what rounding does.
        for _ in range(2):
            for axis_KG in axes:
                moved_KG = moved_KG - _inner(moved_KG, axis_KG, origin, geometry) * axis_KG
        length = max(_inner(moved_KG, moved_KG, origin, geometry), 0.0) ** 0.5
        if not length > OFF_THE_LINE * scale:
            return None
        scale = scale or length
        axes.append(moved_KG / length)
    return Plane(geometry=geometry, origin=origin, axes_2KG=torch.stack(axes))


def grid(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """`SIDE` values of x and of y, around all points."""
    spans = [(min(axis), max(axis)) for axis in zip(*points, strict=True)]
    margin = MARGIN * max(high - low for low, high in spans)
    xs, ys = (torch.linspace(low - margin, high + margin, SIDE, dtype=torch.float64).tolist() for low, high in spans)
    return xs, ys


def per_tensor(coefficients: Coefficients, geometry: Geometry) -> Tensor:
    """K x T."""
    return coefficients.alpha_KG[:, [coefficients.group_of[name] for name in geometry.names]]


def _grouped(coefficients: Coefficients, like: Coefficients) -> Tensor:
    """K x G, for the groups of another."""
    alpha_KG = coefficients.alpha_KG
    return alpha_KG if coefficients.groups == like.groups else alpha_KG[:, :1].expand(-1, len(like.groups)).clone()


def _dual(moved_KT: Tensor, geometry: Geometry) -> Tensor:
    return torch.bmm(geometry.gram_TKK, moved_KT.T.unsqueeze(2)).squeeze(2).T


def _inner(one_KG: Tensor, other_KG: Tensor, like: Coefficients, geometry: Geometry) -> float:
    """Of two differences of models, in the weights."""
    one_KT, other_KT = (per_tensor(replace(like, alpha_KG=each), geometry) for each in (one_KG, other_KG))
    return float((one_KT * _dual(other_KT, geometry)).sum())
