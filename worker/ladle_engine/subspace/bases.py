"""Subspaces: what the optimiser moves, and which weights of the checkpoints that makes (DESIGN, section 1: basis).

Every basis is a small change of basis `M`, made from the K x K Gram matrix of the directions in float64, so no basis
vector of the model's size is ever built: `u = M theta`, `alpha = alpha_0 + u - mean(u)`. The columns of every basis are
about as long as the checkpoints' own directions (their root mean square, by group), so that one learning rate serves
every model and every basis.

K checkpoints, G groups, M dimensions of the basis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ladle_engine.model.groups import Groups
from ladle_engine.subspace.geometry import Geometry

INDEPENDENT = 1e-4
"""A direction of which less than this share is new is dropped: float64 inner products know such a share to 1e-8."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What the trained numbers are coordinates of."""

    matrix_GKM: Tensor
    """float64: `u = M theta`; unused columns are 0."""
    log_variance_MG: Tensor
    """float64: the logarithm of the checkpoints' variance along each axis, relative to the group's mean; 0 for axes
    without such an order. What a learned prior goes by."""

    def move(self, theta_MG: Tensor) -> Tensor:
        """K x G on the CPU: `u = M theta`, group by group, where the matrices are."""
        # As rows: the batched product of matrices with one column is slower by half.
        rows_G1M = theta_MG.T.contiguous().unsqueeze(1).to(self.matrix_GKM.device)
        return torch.bmm(rows_G1M, self.matrix_GKM.mT).squeeze(1).T.cpu()

    def on(self, device: torch.device) -> Basis:
        """The same with its matrices there: 300 checkpoints and 161 layers have 116 MB of them, read twice per step."""
        return replace(self, matrix_GKM=self.matrix_GKM.to(device))


class Subspace(Protocol):
    """A differentiable map from the trained numbers to the weights of the rows."""

    @property
    def start(self) -> Tensor:
        """float64 M x G: where training begins."""
        ...

    @property
    def log_variance_MG(self) -> Tensor:
        """See `Basis`."""
        ...

    def weights(self, theta_MG: Tensor) -> Tensor:
        """float64 K x G."""
        ...


@dataclass(frozen=True, kw_only=True)
class Linear:
    """`alpha = alpha_0 + u - mean(u)` with `u = M theta`; alpha sums to 1 and may be negative."""

    alpha_0_KG: Tensor
    basis: Basis

    @property
    def start(self) -> Tensor:
        G, _, M = self.basis.matrix_GKM.shape
        return torch.zeros(M, G, dtype=torch.float64)

    @property
    def log_variance_MG(self) -> Tensor:
        return self.basis.log_variance_MG

    def weights(self, theta_MG: Tensor) -> Tensor:
        u_KG = self.basis.move(theta_MG)
        return self.alpha_0_KG + u_KG - u_KG.mean(dim=0, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Layered:
    """Coefficients that all groups share, and what each group has besides: `u_g = M theta_0 + M_g theta_g`.

    The span is that of the groups alone. But what is good for the whole model is one step here, which the gradients of
    all groups agree on, instead of G noisy ones; and a prior sees that the groups' own moves are the smaller part.
    Theta's first column is what is shared.
    """

    alpha_0_KG: Tensor
    shared: Basis
    """Of the whole model."""
    own: Basis
    """Of the groups."""

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.log_variance_MG)

    @property
    def log_variance_MG(self) -> Tensor:
        """M is the larger one of both bases; what one of them lacks moves nothing."""
        both = (self.shared.log_variance_MG, self.own.log_variance_MG)
        M = max(len(each) for each in both)
        return torch.cat([pad(each, (0, 0, 0, M - len(each))) for each in both], dim=1)

    def weights(self, theta_MG: Tensor) -> Tensor:
        shared_M1 = theta_MG[: len(self.shared.log_variance_MG), :1]
        own_MG = theta_MG[: len(self.own.log_variance_MG), 1:]
        u_KG = self.shared.move(shared_M1) + self.own.move(own_MG)
        return self.alpha_0_KG + u_KG - u_KG.mean(dim=0, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Convex:
    """`alpha = softmax(theta)`: no weight is negative (the learned soup's option)."""

    alpha_0_KG: Tensor

    @property
    def start(self) -> Tensor:
        # A checkpoint with no weight at the start would have none for ever: its logarithm is minus infinity.
        floor = 0.01 / len(self.alpha_0_KG)
        return self.alpha_0_KG.clamp(min=floor).log()

    @property
    def log_variance_MG(self) -> Tensor:
        return torch.zeros_like(self.alpha_0_KG)

    def weights(self, theta_MG: Tensor) -> Tensor:
        return torch.softmax(theta_MG, dim=0)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Weights of random rows, each as long as the checkpoints' directions are."""

    scale_G: Tensor
    """What a row's weight is at theta = 1."""
    dimensions: int

    @property
    def start(self) -> Tensor:
        return torch.zeros(self.dimensions, len(self.scale_G), dtype=torch.float64)

    @property
    def log_variance_MG(self) -> Tensor:
        return torch.zeros_like(self.start)

    def weights(self, theta_MG: Tensor) -> Tensor:
        return theta_MG * self.scale_G


MakeBasis = Callable[[Geometry, Groups], Basis]


def own_lengths(geometry: Geometry, groups: Groups) -> Basis:
    """The directions as they are: a coordinate of 1 goes all the way to its checkpoint."""
    return _unordered(torch.diag_embed(geometry.live_KG(groups).T.to(torch.float64)))


def principal_axes(geometry: Geometry, groups: Groups) -> Basis:
    """The directions as they are, turned: `M = V` for the Gram matrix `V diag(lambda) V^T`.

    The span, and the length of `u`, are those of `own_lengths`; but axes along which the loss is steep no longer mix
    with flat ones, which serves an optimiser that has a rate for each coordinate.
    """
    values_GM, vectors_GKM, real_GM = _spectrum(geometry, groups)
    mean_G1 = (values_GM * real_GM).sum(dim=1, keepdim=True) / real_GM.sum(dim=1, keepdim=True).clamp(min=1)
    relative_GM = torch.where(real_GM, values_GM.where(real_GM, 1.0) / mean_G1.where(mean_G1 > 0, 1.0), 1.0)
    used = _used(real_GM)
    return Basis(matrix_GKM=(vectors_GKM * real_GM[:, None, :])[:, :, used], log_variance_MG=relative_GM.log().T[used])


def normalised(geometry: Geometry, groups: Groups) -> Basis:
    """Directions of one length (the journal version, eq. 4): unit directions times one number for the whole model.

    That is the root mean square of the checkpoints' distances from the centre. One rate serves all groups as it does in
    the paper: in units of weights.
    """
    live_KG = geometry.live_KG(groups)
    lengths_KG = geometry.lengths_KG(groups)
    scale = lengths_KG.square().sum(dim=1).mean().sqrt()
    ratio_KG = torch.where(live_KG, scale / lengths_KG.where(live_KG, 1.0), 0.0)
    return _unordered(torch.diag_embed(ratio_KG.T))


def gram_schmidt(geometry: Geometry, groups: Groups) -> Basis:
    """Orthogonal directions in the checkpoints' order (the ICLR version), each of the root mean square length.

    The published loop subtracts vectors of the model's size in float32 and loses orthogonality. Here the same recursion
    runs on inner products in float64, twice for each vector. Dependent directions are dropped: the centred ones
    have rank K - 1 at most.
    """
    gram_GKK = geometry.gram_GKK(groups)
    live_KG = geometry.live_KG(groups)
    scale_G = geometry.scale_G(groups)
    G, K, _ = gram_GKK.shape
    basis_GKM = torch.zeros(G, K, K, dtype=torch.float64)
    for g in range(G):
        gram_KK = gram_GKK[g]
        kept = 0
        for i in range(K):
            if not live_KG[i, g]:
                continue
            vector_K = torch.zeros(K, dtype=torch.float64)
            vector_K[i] = 1.0
            for _ in range(2):
                before_KM = basis_GKM[g, :, :kept]
                vector_K -= before_KM @ (before_KM.T @ (gram_KK @ vector_K))
            length = float((vector_K @ gram_KK @ vector_K).clamp(min=0).sqrt())
            if length > INDEPENDENT * float(gram_KK[i, i].sqrt()):
                basis_GKM[g, :, kept] = vector_K / length
                kept += 1
        basis_GKM[g] *= scale_G[g]
    return _unordered(basis_GKM[:, :, _used(basis_GKM.abs().amax(dim=1) > 0)])


def principal(geometry: Geometry, groups: Groups, dimensions: int | None = None) -> Basis:
    """The top principal components of the checkpoints (Li et al. 2022), each of the root mean square length.

    All that are not rounding noise, unless `dimensions` says how many.
    """
    values_GM, vectors_GKM, real_GM = _spectrum(geometry, groups)
    if dimensions is not None:
        real_GM[:, dimensions:] = False
    inverse_GM = torch.where(real_GM, values_GM.where(real_GM, 1.0).rsqrt(), 0.0)
    columns_GKM = vectors_GKM * (inverse_GM * geometry.scale_G(groups)[:, None])[:, None, :]
    return _unordered(columns_GKM[:, :, _used(real_GM)])


BASES: dict[str, MakeBasis] = {
    "axes": principal_axes,
    "normalised": normalised,
    "lengths": own_lengths,
    "gram-schmidt": gram_schmidt,
}
"""Of the same span, by the names that options have for them."""


def _spectrum(geometry: Geometry, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues G x M, eigenvectors G x K x M, and which are real (bool G x M), the largest first."""
    live_GK = geometry.live_KG(groups).T.to(torch.float64)
    gram_GKK = geometry.gram_GKK(groups) * live_GK[:, :, None] * live_GK[:, None, :]
    values_GM, vectors_GKM = torch.linalg.eigh(gram_GKK)
    values_GM, vectors_GKM = values_GM.flip(-1), vectors_GKM.flip(-1)
    real_GM = values_GM > INDEPENDENT**2 * values_GM[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
    return values_GM, vectors_GKM, real_GM


def _used(used_GM: Tensor) -> Tensor:
    """bool M: the columns that any group uses, and one at least."""
    used_M = used_GM.any(dim=0)
    used_M[0] = True
    return used_M


def _unordered(matrix_GKM: Tensor) -> Basis:
    G, _, M = matrix_GKM.shape
    return Basis(matrix_GKM=matrix_GKM, log_variance_MG=torch.zeros(M, G, dtype=torch.float64))
