"""Spectral norms: a mixture's singular vectors are found anew, because the mean of the checkpoints' is of no matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from ladle_engine.distributed.sharded import is_dtensor

ITERATIONS = 15
"""As many as torch makes where a spectral norm begins. They start from the reference's vectors, which are near."""


@dataclass(frozen=True, kw_only=True)
class SpectralVectors:
    """One weight's first singular vectors: `weight / (u^T weight v)` is what the network computes with."""

    owner: nn.Module
    """Of the weight."""
    norm: SpectralNorm | _SpectralNorm
    u: Tensor
    v: Tensor

    @torch.no_grad()
    def iterate(self) -> None:
        """Collective where the weight is cut over ranks: the power method on the weight that the model holds."""
        weight = self._weight()
        matrix = weight.movedim(self.norm.dim, 0).flatten(1)
        for _ in range(ITERATIONS):
            self.v.copy_(F.normalize(matrix.T @ self.u, dim=0, eps=self.norm.eps))
            self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=self.norm.eps))

    def _weight(self) -> Tensor:
        if isinstance(self.norm, SpectralNorm):
            return _whole(getattr(self.owner, f"{self.norm.name}_orig"))
        assert isinstance(self.owner, ParametrizationList)
        weight = _whole(self.owner.original)
        for parametrization in self.owner:
            if parametrization is self.norm:
                break
            weight = parametrization(weight)
        return weight


def spectral_vectors(model: nn.Module) -> list[SpectralVectors]:
    """Of both of torch's spectral norms: the hook, and the parametrization."""
    return [*_of_hooks(model), *_of_parametrizations(model)]


def _of_hooks(model: nn.Module) -> Iterator[SpectralVectors]:
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                u, v = (getattr(module, f"{hook.name}_{which}") for which in "uv")
                yield SpectralVectors(owner=module, norm=hook, u=u, v=v)


def _of_parametrizations(model: nn.Module) -> Iterator[SpectralVectors]:
    for module in model.modules():
        if not isinstance(module, ParametrizationList):
            continue
        for parametrization in module:
            # That of a bias, or of any vector, is exact and keeps none.
            if isinstance(parametrization, _SpectralNorm) and hasattr(parametrization, "_u"):
                yield SpectralVectors(owner=module, norm=parametrization, u=parametrization._u, v=parametrization._v)


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if is_dtensor(weight) else weight
