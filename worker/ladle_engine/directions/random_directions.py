"""Directions that are drawn and not taken from checkpoints (Li et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ladle_engine.directions.buckets import Bucket, flat_copy
from ladle_engine.random_signs import random_signs

SIGNS_AT_ONCE = 1 << 22
"""How many are drawn at once, over all rows (16 MiB)."""


class RandomDirections:
    """Seeded random signs, made anew whenever they are asked for and never kept (Li et al. 2018).

    Each element is +1 or -1: the rows have the length `sqrt(P)` exactly, and need one random bit per element. The bits
    are Philox's own, which numpy keeps the same from release to release, so a model can be rebuilt from its seed.
    """

    def __init__(self, base: Sequence[Tensor], buckets: Sequence[Bucket], rows: slice, seed: int, count: int) -> None:
        self._base = base
        self._buckets = buckets
        self._rows = range(count)[rows]
        self._seed = seed
        self._draw = 0

    def base_weights_G(self, weights_KG: Tensor) -> Tensor:
        return torch.ones(weights_KG.shape[1], dtype=weights_KG.dtype)

    def compose_into(self, out_P: Tensor, index: int, weights_N: Tensor, base_weight: float) -> None:
        torch.mul(self._base[index], base_weight, out=out_P)
        for elements, signs_NC in self._chunks(index):
            out_P[elements] += weights_N @ signs_NC.to(out_P)

    def project(self, index: int, gradient_P: Tensor) -> Tensor:
        projected_N = gradient_P.new_zeros(len(self._rows))
        for elements, signs_NC in self._chunks(index):
            projected_N += signs_NC.to(gradient_P) @ gradient_P[elements]
        return projected_N

    def draw_at(self, draw: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Another basis, the `draw`-th of this seed, around what the model now holds."""
        self._draw = draw
        self._base = [flat_copy(parameters, bucket) for bucket in self._buckets]

    def close(self) -> None:
        return

    def _chunks(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        chunk = max(SIGNS_AT_ONCE // max(len(self._rows), 1), 256)
        for piece in self._buckets[index].pieces:
            for first in range(0, piece.length, chunk):
                length = min(chunk, piece.length - first)
                signs_NC = torch.empty(len(self._rows), length)
                for signs_C, row in zip(signs_NC, self._rows, strict=True):
                    signs_C.copy_(random_signs(self._seed, self._draw, row, piece.name, piece.start + first, length))
                yield slice(piece.offset + first, piece.offset + first + length), signs_NC
