"""Lengths, angles and distances of the directions (paper, section 4.1).

Shape suffixes: K checkpoints, G groups, T parameter tensors, C elements of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.checkpoints.chunks import Piece
from ladle_engine.directions.checkpoint_directions import CentredChunk
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups

RELATIVE_LENGTH_THRESHOLD = 1e-6
"""A direction shorter than this share of the centre's norm is rounding noise (float32 resolves 6e-8) and is dropped:
normalised to unit length it would move a frozen tensor by that noise."""

DUPLICATE = 1e-7
"""Two checkpoints closer than this share of the largest distance are one: distances are differences of squares."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Inner products of the directions, tensor by tensor, in float64."""

    names: tuple[str, ...]
    """The T parameter tensors."""
    gram_TKK: Tensor
    """`(w_i - c)^T (w_j - c)`."""
    centre_squared_T: Tensor
    """`|c|^2`."""
    to_base_TK: Tensor | None = None
    """`(w_i - c)^T (b - c)` for the base b, where there is one."""
    base_squared_T: Tensor | None = None
    """`|b - c|^2`."""

    def gram_GKK(self, groups: Groups) -> Tensor:
        return _sum_by_group(self.gram_TKK, self.names, groups)

    def gram_from_base_GKK(self, groups: Groups) -> Tensor:
        """`(w_i - b)^T (w_j - b)`, for checkpoints with a base b; exactly 0 for one that is the base in a group.

        Differences of squares leave rounding noise there, and the noise of two checkpoints points the same way.
        """
        assert self.to_base_TK is not None
        assert self.base_squared_T is not None
        to_base_GK = _sum_by_group(self.to_base_TK, self.names, groups)
        base_G11 = _sum_by_group(self.base_squared_T, self.names, groups)[:, None, None]
        own_GKK = self.gram_GKK(groups)
        gram_GKK = own_GKK - to_base_GK[:, :, None] - to_base_GK[:, None, :] + base_G11
        scale_GK = torch.maximum(own_GKK.diagonal(dim1=1, dim2=2), base_G11[:, :, 0])
        moved_GK = gram_GKK.diagonal(dim1=1, dim2=2) > RELATIVE_LENGTH_THRESHOLD**2 * scale_GK
        return gram_GKK * (moved_GK[:, :, None] & moved_GK[:, None, :])

    def distances_to_base_K(self) -> Tensor:
        """`|w_i - b|` over the whole model, for checkpoints with a base b; 0 where the two are the same but for
        rounding."""
        assert self.to_base_TK is not None
        assert self.base_squared_T is not None
        own_K = self.gram_TKK.sum(dim=0).diagonal()
        squared_K = own_K - 2 * self.to_base_TK.sum(dim=0) + self.base_squared_T.sum()
        return without_rounding(squared_K.clamp(min=0).sqrt(), self.distances_KK().max())

    def lengths_KG(self, groups: Groups) -> Tensor:
        """`d_i = |w_i - c|`."""
        return self.gram_GKK(groups).diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().T

    def scale_G(self, groups: Groups) -> Tensor:
        """The root mean square of the lengths; 1 where all are 0."""
        scale_G = self.lengths_KG(groups).square().mean(dim=0).sqrt()
        return torch.where(scale_G > 0, scale_G, 1.0)

    def live_KG(self, groups: Groups) -> Tensor:
        """bool: the directions that are kept; see `RELATIVE_LENGTH_THRESHOLD`."""
        centre_G = _sum_by_group(self.centre_squared_T, self.names, groups).sqrt()
        lengths_KG = self.lengths_KG(groups)
        # A group whose centre is zero (a fresh bias) is judged by its own longest direction.
        scale_G = torch.maximum(centre_G, lengths_KG.amax(dim=0))
        return lengths_KG > RELATIVE_LENGTH_THRESHOLD * scale_G

    def distances_KK(self) -> Tensor:
        """`|w_i - w_j|` over the whole model."""
        gram_KK = self.gram_TKK.sum(dim=0)
        squared_K = gram_KK.diagonal()
        return (squared_K[:, None] + squared_K[None, :] - 2 * gram_KK).clamp(min=0).sqrt()

    def duplicates(self) -> list[tuple[int, int]]:
        """Pairs of checkpoints whose parameters are the same up to rounding."""
        distances_KK = self.distances_KK()
        same_KK = distances_KK <= DUPLICATE * distances_KK.max()
        return [(i, j) for i, j in same_KK.triu(diagonal=1).nonzero().tolist()]

    def cosines_KK(self) -> Tensor:
        """Cosines between the directions over the whole model; 0 where one is degenerate."""
        gram_KK = self.gram_TKK.sum(dim=0)
        lengths_K = gram_KK.diagonal().clamp(min=0).sqrt()
        product_KK = lengths_K[:, None] * lengths_K[None, :]
        return torch.where(product_KK > 0, gram_KK / product_KK.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def without_rounding(distances: Tensor, longest: Tensor) -> Tensor:
    """0 for what is no distance: see `DUPLICATE`. `longest` is one of others that are measured beside them."""
    return torch.where(distances <= DUPLICATE * torch.maximum(distances.max(), longest), 0.0, distances)


def _sum_by_group(values_T: Tensor, names: tuple[str, ...], groups: Groups) -> Tensor:
    index_T = torch.tensor([groups.of[name] for name in names])
    return values_T.new_zeros((len(groups), *values_T.shape[1:])).index_add_(0, index_T, values_T)


class GeometrySums:
    """What a `Geometry` is added up from, chunk by chunk."""

    def __init__(self, binding: Binding, num_checkpoints: int, device: torch.device, *, has_base: bool = False) -> None:
        self._names = tuple(binding.parameters)
        self._index = {name: t for t, name in enumerate(self._names)}
        self._device = device
        self._gram_TKK = torch.zeros(len(self._names), num_checkpoints, num_checkpoints, dtype=torch.float64)
        self._centre_squared_T = torch.zeros(len(self._names), dtype=torch.float64)
        self._has_base = has_base
        self._to_base_TK = torch.zeros(len(self._names), num_checkpoints, dtype=torch.float64)
        self._base_squared_T = torch.zeros_like(self._centre_squared_T)

    def add(self, pieces: Sequence[Piece], chunk: CentredChunk) -> None:
        """`pieces` are those of the chunk, with offsets in it."""
        centre_C, directions_KC = chunk.centre_C.to(self._device), chunk.directions_KC.to(self._device)
        for piece in pieces:
            elements = slice(piece.offset, piece.offset + piece.length)
            t, part_KC, part_C = self._index[piece.name], directions_KC[:, elements], centre_C[elements]
            self._gram_TKK[t] += (part_KC @ part_KC.T).cpu()
            self._centre_squared_T[t] += float(part_C @ part_C)
            if chunk.base_C is not None:
                base_C = chunk.base_C.to(self._device)[elements]
                self._to_base_TK[t] += (part_KC @ base_C).cpu()
                self._base_squared_T[t] += float(base_C @ base_C)

    def over_ranks(self, collectives: Collectives) -> Geometry:
        """Collective."""
        return Geometry(
            names=self._names,
            gram_TKK=collectives.all_reduce(self._gram_TKK),
            centre_squared_T=collectives.all_reduce(self._centre_squared_T),
            to_base_TK=collectives.all_reduce(self._to_base_TK) if self._has_base else None,
            base_squared_T=collectives.all_reduce(self._base_squared_T) if self._has_base else None,
        )
