"""Directions: what coefficients combine, and gradients are projected on (paper, eqs. 3-6).

Shape suffixes: K checkpoints, N rows of this rank, G groups, P elements of one bucket, C elements of one chunk.

A model is `s c + sum_i alpha_i (w_i - c)` with `s = sum_i alpha_i`, which is 1 for an average: that is
`sum_i alpha_i w_i`, with the rounding of the short directions and not of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet, TensorReader
from ladle_engine.directions.buckets import Bucket, position_of, read_chunks
from ladle_engine.directions.formats import OFFLOAD, Rows
from ladle_engine.directions.rows import make_rows
from ladle_engine.storage.read_ahead import read_ahead

STREAMED = "streamed"
"""Nothing is kept: every step reads the files again."""

OFFLOADED = "offload"
"""float32 in the host's memory, brought to the GPU in pieces at each step."""


@dataclass(frozen=True, kw_only=True)
class CentredChunk:
    """Some elements of a bucket: `c` and all `w_i - c`, in float64."""

    elements: slice
    centre_C: Tensor
    directions_KC: Tensor
    base_C: Tensor | None = None
    """The base minus `c`, where there is one."""


Keep = Callable[[int, CentredChunk], None]
"""Takes a chunk of the bucket of an index."""

Fill = Callable[[Sequence[Bucket], Keep], None]
"""Reads all chunks of some buckets."""


def centred(elements: slice, weights_KC: Tensor, has_base: bool = False) -> CentredChunk:
    """Takes the memory of `weights_KC`, float64. The first row may be the base's, which does not count as one of K."""
    centre_C = weights_KC[has_base:].mean(dim=0)
    weights_KC.sub_(centre_C)
    return CentredChunk(
        elements=elements,
        centre_C=centre_C,
        directions_KC=weights_KC[has_base:],
        base_C=weights_KC[0] if has_base else None,
    )


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
    """Directions in memory, on the model's device or beside it, at one of `formats.ROW_PRECISIONS`.

    They are zeros until every chunk of every bucket was kept.
    """

    def __init__(
        self, buckets: Sequence[Bucket], num_checkpoints: int, rows: slice, precision: str, device: torch.device
    ) -> None:
        self._slice = rows
        N = len(range(num_checkpoints)[rows])
        self._base = [torch.empty(bucket.length, dtype=torch.float32, device=device) for bucket in buckets]
        self._rows: list[Rows] = [make_rows(precision, N, bucket.length, device) for bucket in buckets]

    def keep(self, index: int, chunk: CentredChunk) -> None:
        """One chunk of the bucket at `index`."""
        self._base[index][chunk.elements] = chunk.centre_C.to(self._base[index])
        self._rows[index].fill(chunk.elements.start, chunk.directions_KC[self._slice])

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
    """Nothing resident: every step reads the files again. Slower, and fits where nothing else does."""

    def __init__(
        self, checkpoints: CheckpointSet, buckets: Sequence[Bucket], rows: slice, device: torch.device
    ) -> None:
        self._open = ExitStack()
        self._readers = self._open.enter_context(open_all(checkpoints))
        self._buckets = buckets
        self._slice = rows
        self._device = device

    def base_weights_G(self, weights_KG: Tensor) -> Tensor:
        return weights_KG.sum(dim=0)

    def compose_into(self, out_P: Tensor, index: int, weights_N: Tensor, base_weight: float) -> None:
        for elements, weights_KC in read_chunks(self._readers, self._buckets[index], torch.float32):
            weights_KC = weights_KC.to(self._device)
            centre_C = weights_KC.mean(dim=0)
            moved_C = weights_N @ weights_KC.sub_(centre_C)[self._slice]
            out_P[elements] = moved_C.add_(centre_C, alpha=base_weight)

    def project(self, index: int, gradient_P: Tensor) -> Tensor:
        projected_N: Tensor | None = None
        for elements, weights_KC in read_chunks(self._readers, self._buckets[index], torch.float32):
            weights_KC = weights_KC.to(self._device)
            directions_NC = weights_KC.sub_(weights_KC.mean(dim=0))[self._slice]
            part_N = directions_NC @ gradient_P[elements]
            projected_N = part_N if projected_N is None else projected_N.add_(part_N)
        assert projected_N is not None, "a bucket holds at least one element"
        return projected_N

    def close(self) -> None:
        self._open.close()


def open_directions(
    checkpoints: CheckpointSet,
    buckets: Sequence[Bucket],
    precision: str,
    device: torch.device,
    rows: slice = slice(None),
    fill: Fill | None = None,
) -> Directions:
    """The directions of the checkpoints in `rows`; `precision` is one of `ROW_PRECISIONS`, `offload` or `streamed`.

    `fill` reads them, for whoever wants to do more with what is read; `fill_directions` when absent.
    """
    if precision == STREAMED:
        return StreamedDirections(checkpoints, buckets, rows, device)
    precision = f"{OFFLOAD}float32" if precision == OFFLOADED else precision
    directions = ResidentDirections(buckets, len(checkpoints.checkpoints), rows, precision, device)
    if fill is None:
        with open_all(checkpoints) as readers:
            fill_directions(readers, buckets, directions.keep)
    else:
        fill(buckets, directions.keep)
    return directions


def fill_directions(
    readers: Sequence[TensorReader], buckets: Sequence[Bucket], keep: Keep, *, has_base: bool = False
) -> None:
    """Reads every bucket of every checkpoint once, in the order of the files. The first reader may be the base's."""
    filled = [index for index, bucket in enumerate(buckets) if bucket.pieces]
    filled.sort(key=lambda index: position_of(buckets[index].pieces[0], readers[-1]))
    chunks = ((index, *chunk) for index in filled for chunk in read_chunks(readers, buckets[index], torch.float64))
    with read_ahead(chunks) as ready:
        for index, elements, weights_KC in ready:
            keep(index, centred(elements, weights_KC, has_base))
