"""Averages that run along a training: each checkpoint is read once, and moves every average that is kept a little.

An average whose earlier weights keep their proportions when a checkpoint is added needs nothing but itself:
`m <- m + share (w - m)`. So the average over a window costs one read of what is kept, not one read of each checkpoint.

Shape suffixes: P this rank's elements of the model, C elements of one chunk.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ladle_engine.checkpoints.chunks import Piece
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.directions.buckets import Bucket, in_order_of_files, read_chunks
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.distributed.sharded import is_dtensor
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups
from ladle_engine.model.local_shard import local_part
from ladle_engine.placements.base import Placement
from ladle_engine.placements.exact_weights import ExactWeights
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.storage.read_ahead import read_ahead

NEWEST, SUMMED = "newest", "summed"
"""Stand for the checkpoint that was read last, and for what was summed up from the files."""


class RunningAverages(ExactWeights):
    """float32 vectors, cut over the ranks: each reads and keeps its part."""

    def __init__(self, checkpoints: CheckpointSet, binding: Binding, collectives: Collectives) -> None:
        super().__init__(checkpoints, binding)
        self._collectives = collectives
        with open_checkpoint(checkpoints.reference) as reader:
            (self._bucket,) = in_order_of_files([_own_part(binding, collectives)], reader)
        self._kept: dict[Hashable, Tensor] = {}
        """Average -> float32 [P]."""
        self._stands_for: dict[str, Hashable] = {}
        """Digest of coefficients -> what is kept and is just that."""

    @torch.no_grad()
    def advance(self, index: int, shares: Mapping[Any, float]) -> None:
        """Reads the checkpoint of this index: `shares` are what it has in each average that goes on, others are freed.

        An average that is new begins with it.
        """
        self._stands_for = {}
        shares = {**shares, NEWEST: 1.0}
        for key in self._kept.keys() - shares.keys():
            del self._kept[key]
        new = shares.keys() - self._kept.keys() | {NEWEST}
        self._kept |= {key: torch.empty(self._bucket.length) for key in shares.keys() - self._kept.keys()}
        # One chunk stays in the cache for all averages.
        for elements, weights_C in self._chunks_of(index):
            for key, share in shares.items():
                kept_C = self._kept[key][elements]
                if key in new:
                    kept_C.copy_(weights_C)
                else:
                    kept_C.lerp_(weights_C, share)

    def offer(self, models: Mapping[Hashable, Coefficients]) -> None:
        """Says which models the averages are now, until the next checkpoint is read."""
        self._stands_for = {coefficients.digest: key for key, coefficients in models.items()}

    def load_awaited(self, mixture: Coefficients) -> bool:
        """Whether it is kept: then it is loaded."""
        if mixture.digest not in self._stands_for:
            return False
        self.load(mixture)
        return True

    @torch.no_grad()
    def load(self, mixture: Coefficients) -> None:
        """Collective. What is not kept is summed up from the files, each rank its part."""
        if mixture.digest not in self._stands_for:
            # Kept as well, until the next checkpoint is read: the mean is tried with two kinds of statistics.
            self._kept[SUMMED] = self._sum(mixture)
            self._stands_for = {mixture.digest: SUMMED}
        values_P = self._kept[self._stands_for[mixture.digest]]
        pieces = {piece.name: piece for piece in self._bucket.pieces}
        for name, parameter in self._parameters.items():
            piece = pieces[name]
            own = values_P[piece.offset : piece.offset + piece.length]
            whole = own if is_dtensor(parameter) else self._collectives.all_gather(own, self._lengths(parameter))
            local_part(parameter)[0].copy_(whole)

    def free(self) -> None:
        """Nothing is kept any more."""
        self._kept.clear()
        self._stands_for.clear()

    def _sum(self, mixture: Coefficients) -> Tensor:
        """float32 [P]"""
        summed_P = torch.zeros(self._bucket.length)
        for index, alpha in enumerate(mixture.alpha_KG[:, 0].tolist()):
            for elements, weights_C in self._chunks_of(index) if alpha else ():
                summed_P[elements].add_(weights_C, alpha=alpha)
        return summed_P

    def _chunks_of(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        """This rank's elements of one checkpoint, chunk by chunk; another thread reads the next ones meanwhile."""
        with (
            open_checkpoint(self._checkpoints.checkpoints[index]) as reader,
            read_ahead(read_chunks([reader], self._bucket, torch.float32)) as ready,
        ):
            yield from ((elements, weights_KC[0]) for elements, weights_KC in ready)

    def _lengths(self, parameter: Tensor) -> list[int]:
        shares = (_share(parameter.numel(), rank, self._collectives.size) for rank in range(self._collectives.size))
        return [stop - start for start, stop in shares]


def _own_part(binding: Binding, collectives: Collectives) -> Bucket:
    """This rank's elements of the parameters: its shards where the model is cut, else its share of each."""
    pieces: list[Piece] = []
    offset = 0
    for name, parameter in binding.parameters.items():
        local, begin = local_part(parameter)
        start, stop = 0, local.numel()
        if not is_dtensor(parameter):
            start, stop = _share(local.numel(), collectives.rank, collectives.size)
        # Also of no elements: all ranks gather every tensor.
        pieces.append(Piece(name=name, start=begin + start, length=stop - start, offset=offset))
        offset += stop - start
    return Bucket(pieces=tuple(pieces))


def _share(count: int, rank: int, ranks: int) -> tuple[int, int]:
    return rank * count // ranks, (rank + 1) * count // ranks


@dataclass
class _Loading:
    """Of a placement what is needed to judge: nothing is trained."""

    running: RunningAverages
    checkpoints: CheckpointSet
    binding: Binding

    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        names = self.checkpoints.names
        self.running.load(Coefficients.whole_model(names, self.binding.floating, weights_KG[:, 0]))


@dataclass(kw_only=True)
class RunningWeights(ModelWeights):
    """Fills the model without any directions: from what runs along, or from the files."""

    running: RunningAverages = field(init=False)

    def __post_init__(self) -> None:
        self.running = RunningAverages(self.checkpoints, self.binding, self.collectives)
        self.exact = self.running

    def placement(self, groups: Groups) -> Placement:
        """Collective when it loads."""
        return cast(Placement, _Loading(self.running, self.checkpoints, self.binding))

    def coarse(self) -> str | None:
        """None: what runs along is as fine as the model that is judged."""
        return None

    def close(self) -> None:
        self.running.free()
