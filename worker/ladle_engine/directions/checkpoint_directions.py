"""Directions: what coefficients combine, and gradients are projected on (paper, eqs. 3-6).

Shape suffixes: K checkpoints, N rows of this rank, G groups, P elements of one bucket, C elements of one chunk.

A model is `s c + sum_i alpha_i (w_i - c)` with `s = sum_i alpha_i`, which is 1 for an average: that is
`sum_i alpha_i w_i`, with the rounding of the short directions and not of the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.directions.buckets import CHUNK_NUMBERS, Bucket, flat_copy, read_chunks
from ladle_engine.directions.resident_rows import OFFLOAD, Rows, make_rows

STREAMED = "streamed"
"""Nothing is kept: every step reads the memory-mapped files again."""

OFFLOADED = "offload"
"""float32 in the host's memory, brought to the GPU in pieces at each step."""


class Directions(Protocol):
    """N vectors over this rank's buckets, and a base that they start from."""

    def base_weights_G(self, weights_KG: Tensor) -> Tensor:
        """How often the base counts, by group: the sum of the weights for checkpoints, 1 for random vectors."""
        ...

    def compose_into(self, out_P: Tensor, index: int, weights_N: Tensor, base_weight: float) -> None:
        """Writes `base_weight * base + weights_N @ rows` of the bucket at `index`; float32, on the model's device."""
        ...

    def project(self, index: int, gradient_P: Tensor) -> Tensor:
        """float32 [N]: `rows @ gradient` for one bucket (eq. 6, times `d_i`)."""
        ...

    def close(self) -> None: ...


class ResidentDirections:
    """Directions in memory, on the model's device or beside it, at one of `rows.TIERS`."""

    def __init__(
        self,
        checkpoints: CheckpointSet,
        buckets: Sequence[Bucket],
        rows: slice,
        tier: str,
        device: torch.device,
    ) -> None:
        self._base: list[Tensor] = []
        self._rows: list[Rows] = []
        K = len(checkpoints.checkpoints)
        N = len(range(K)[rows])
        with open_all(checkpoints) as readers:
            for bucket in buckets:
                base_P = torch.empty(bucket.length, dtype=torch.float32, device=device)
                kept = make_rows(tier, N, bucket.length, device)
                for elements, weights_KC in read_chunks(readers, bucket, torch.float64):
                    centre_C = weights_KC.mean(dim=0)
                    base_P[elements] = centre_C.to(base_P)
                    kept.fill(elements.start, weights_KC.sub_(centre_C)[rows])
                self._base.append(base_P)
                self._rows.append(kept)

    def base_weights_G(self, weights_KG: Tensor) -> Tensor:
        return weights_KG.sum(dim=0)

    def compose_into(self, out_P: Tensor, index: int, weights_N: Tensor, base_weight: float) -> None:
        torch.mul(self._base[index], base_weight, out=out_P)
        self._rows[index].expand_into(out_P, weights_N)

    def project(self, index: int, gradient_P: Tensor) -> Tensor:
        return self._rows[index].project(gradient_P)

    def close(self) -> None:
        for rows in self._rows:
            rows.close()
        self._rows.clear()
        self._base.clear()


class StreamedDirections:
    """Nothing resident: every step reads the memory-mapped files again. Slower, and fits where nothing else does."""

    def __init__(
        self, checkpoints: CheckpointSet, buckets: Sequence[Bucket], rows: slice, device: torch.device
    ) -> None:
        self._open = open_all(checkpoints)
        self._buckets = buckets
        self._slice = rows
        self._device = device

    def base_weights_G(self, weights_KG: Tensor) -> Tensor:
        return weights_KG.sum(dim=0)

    def compose_into(self, out_P: Tensor, index: int, weights_N: Tensor, base_weight: float) -> None:
        for elements, weights_KC in read_chunks(self._open.readers, self._buckets[index], torch.float32):
            weights_KC = weights_KC.to(self._device)
            centre_C = weights_KC.mean(dim=0)
            moved_C = weights_N @ weights_KC.sub_(centre_C)[self._slice]
            out_P[elements] = moved_C.add_(centre_C, alpha=base_weight)

    def project(self, index: int, gradient_P: Tensor) -> Tensor:
        projected_N: Tensor | None = None
        for elements, weights_KC in read_chunks(self._open.readers, self._buckets[index], torch.float32):
            weights_KC = weights_KC.to(self._device)
            directions_NC = weights_KC.sub_(weights_KC.mean(dim=0))[self._slice]
            part_N = directions_NC @ gradient_P[elements]
            projected_N = part_N if projected_N is None else projected_N.add_(part_N)
        assert projected_N is not None, "a bucket holds at least one element"
        return projected_N

    def close(self) -> None:
        self._open.close()


class RandomDirections:
    """Seeded random signs, made anew whenever they are asked for and never kept (Li et al. 2018).

    Each element is +1 or -1: the rows have the length `sqrt(P)` exactly, and need one random bit an element. The bits
    are Philox's own, which numpy keeps the same from release to release, so a model can be rebuilt from its seed.
    """

    def __init__(self, base: Sequence[Tensor], buckets: Sequence[Bucket], rows: slice, seed: int, count: int) -> None:
        self._base = base
        self._buckets = buckets
        self._rows = range(count)[rows]
        self._seed = seed
        self.draw = 0
        """Which basis: another number is another set of directions."""

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

    def start_at(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """What the model now holds becomes the base."""
        self._base = [flat_copy(parameters, bucket) for bucket in self._buckets]

    def close(self) -> None:
        return

    def _chunks(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        chunk = max(CHUNK_NUMBERS // max(len(self._rows), 1), 256)
        for piece in self._buckets[index].pieces:
            for first in range(0, piece.length, chunk):
                length = min(chunk, piece.length - first)
                signs_NC = torch.empty(len(self._rows), length)
                for signs_C, row in zip(signs_NC, self._rows, strict=True):
                    signs_C.copy_(random_signs(self._seed, self.draw, row, piece.name, piece.start + first, length))
                yield slice(piece.offset + first, piece.offset + first + length), signs_NC


def random_signs(seed: int, draw: int, row: int, name: str, start: int, length: int) -> Tensor:
    """float32 [length] of +1 and -1: elements `start` and following of a flattened tensor's random vector."""
    key = hashlib.blake2b(f"{seed}/{draw}/{row}/{name}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=int.from_bytes(key, "little"))
    # One step of Philox's counter makes four words of 64 bits.
    first = start // 256
    generator.advance(first)
    words = generator.random_raw(-(-(start + length) // 256) * 4 - first * 4)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
    skip = start - first * 256
    return torch.from_numpy(bits[skip : skip + length].astype(np.float32)).mul_(2).sub_(1)


def open_directions(
    checkpoints: CheckpointSet,
    buckets: Sequence[Bucket],
    precision: str,
    device: torch.device,
    rows: slice = slice(None),
) -> Directions:
    """The directions of the checkpoints in `rows`; `precision` is one of `rows.TIERS`, `offload` or `streamed`."""
    if precision == STREAMED:
        return StreamedDirections(checkpoints, buckets, rows, device)
    tier = f"{OFFLOAD}float32" if precision == OFFLOADED else precision
    return ResidentDirections(checkpoints, buckets, rows, tier, device)
