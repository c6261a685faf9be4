"""Placements: how directions and gradients lie over R ranks, and what crosses between them (DESIGN, section 3).

| placement     | directions of a rank | crosses at each step |
|---------------|----------------------|----------------------|
| replicated    | K x D                | K x G numbers |
| by-parameter  | K x D/R              | a reduce-scatter and an all-gather of D numbers, and K x G |
| by-checkpoint | K/R x D              | two all-reduces of D numbers, and K x G (the paper's scheme, section 4.4) |
| sharded-model | K x D/R              | what FSDP2 sends anyway, and K x G |

By-parameter inside each node and replicated between nodes is `by-node`: only K x G numbers leave a node.

Shape suffixes: K checkpoints (or rows of another basis), N of them on this rank, G groups, P elements of one bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from ladle_engine.directions.buckets import Bucket
from ladle_engine.directions.checkpoint_directions import Directions
from ladle_engine.distributed.collectives import Collectives, share_of
from ladle_engine.model.groups import Groups
from ladle_engine.model.local_shard import local_part
from ladle_engine.placements.base import (
    BY_CHECKPOINT,
    BY_PARAMETER,
    REPLICATED,
    SHARDED_MODEL,
    Measured,
    Placement,
    PlacementInputs,
)
from ladle_engine.placements.gradients import BucketOrder, FlatParameters, Gradients


class _Composition:
    """The weights of one combination, on the model's device, for bucket after bucket."""

    def __init__(
        self, directions: Directions, weights_KG: Tensor, groups: Groups, rows: slice = slice(None), share: float = 1.0
    ) -> None:
        self._directions = directions
        self._groups = groups
        self._base_weights = [share * weight for weight in directions.base_weights_G(weights_KG).tolist()]
        self._columns_GN = weights_KG[rows].T.to(torch.float32)

    def into(self, out_P: Tensor, index: int, bucket: Bucket) -> None:
        if not bucket.pieces:
            return
        self._columns_GN = self._columns_GN.to(out_P.device)
        group = self._groups.of[bucket.pieces[0].name]
        self._directions.compose_into(out_P, index, self._columns_GN[group], self._base_weights[group])


class _Projected:
    """The N numbers of each bucket, and the loss, that a rank has on its device after one backward pass."""

    def __init__(self, directions: Directions, buckets: Sequence[Bucket], groups: Groups, count: int) -> None:
        self._directions = directions
        self._group_of = [groups.of[bucket.pieces[0].name] if bucket.pieces else 0 for bucket in buckets]
        self._of_bucket: dict[int, Tensor] = {}
        self._shape = (len(groups), count)

    def add(self, index: int, gradient_P: Tensor) -> None:
        if len(gradient_P):
            self._of_bucket[index] = self._directions.project(index, gradient_P)

    def with_loss(self, loss: Tensor) -> Tensor:
        """float64 [G * N + 1] on the CPU, the loss last: one transfer, and one message."""
        loss = loss.detach().to(torch.float64).reshape(1)
        sums_GN = loss.new_zeros(self._shape)
        # In one order, whatever that of the gradients was: the last bits depend on it, and a resumed run has another.
        for index in sorted(self._of_bucket, reverse=True):
            sums_GN[self._group_of[index]] += self._of_bucket[index]
        return torch.cat([sums_GN.reshape(-1), loss]).cpu()

    def fill(self, measured: Measured, total: Tensor) -> None:
        measured.gradient_KG = total[:-1].view(self._shape).T.contiguous()
        measured.loss = total[-1]


class _Summed:
    """What the placements share in which every rank adds up all K rows: one sum of K x G numbers ends the pass."""

    buckets: Sequence[Bucket]
    directions: Directions

    def __init__(self, inputs: PlacementInputs) -> None:
        self._parameters = inputs.parameters
        self._world = inputs.world
        self._count = inputs.count

    @contextmanager
    def _projecting(
        self, groups: Groups, gradients: Gradients, part_of: Callable[[int, Tensor], Tensor]
    ) -> Iterator[Measured]:
        """`part_of(index, gradient_P)` is the gradient of this rank's elements of a bucket."""
        projected = _Projected(self.directions, self.buckets, groups, self._count)
        measured = _nothing_measured()
        with gradients.handed_to(lambda index, gradient_P: projected.add(index, part_of(index, gradient_P))):
            yield measured
        projected.fill(measured, self._world.all_reduce(projected.with_loss(measured.loss)))

    def close(self) -> None:
        self.directions.close()


class Replicated(_Summed):
    """Every rank has all directions and projects the gradient of its own examples."""

    def __init__(self, inputs: PlacementInputs) -> None:
        super().__init__(inputs)
        self.buckets = inputs.buckets
        self.directions = inputs.open_directions(inputs.buckets, slice(None))
        self._flat = FlatParameters(inputs.parameters, inputs.buckets, multiple_of=1)
        self._gradients = Gradients(inputs.parameters, inputs.buckets, [bucket.length for bucket in inputs.buckets])

    @torch.no_grad()
    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        composition = _Composition(self.directions, weights_KG, groups)
        for index, bucket in enumerate(self.buckets):
            composition.into(self._flat.vectors[index], index, bucket)

    def projecting(self, groups: Groups) -> AbstractContextManager[Measured]:
        return self._projecting(groups, self._gradients, lambda index, gradient_P: gradient_P)


class ByParameter(_Summed):
    """Each rank of `inner` has one range of every bucket's elements, for all checkpoints.

    With `inner` the ranks of one node and `world` all ranks, this is replicated between nodes.
    """

    def __init__(self, inputs: PlacementInputs, inner: Collectives) -> None:
        super().__init__(inputs)
        self._inner = inner
        self._flat = FlatParameters(inputs.parameters, inputs.buckets, multiple_of=inner.size)
        self._shards = [vector.new_zeros(len(vector) // inner.size) for vector in self._flat.vectors]
        self.buckets = [
            bucket.cut(inner.rank * len(shard), (inner.rank + 1) * len(shard))
            for bucket, shard in zip(inputs.buckets, self._shards, strict=True)
        ]
        self.directions = inputs.open_directions(self.buckets, slice(None))
        padded = [len(vector) for vector in self._flat.vectors]
        self._gradients = Gradients(inputs.parameters, inputs.buckets, padded, BucketOrder(len(padded), inner))

    @torch.no_grad()
    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        composition = _Composition(self.directions, weights_KG, groups)
        for index, bucket in enumerate(self.buckets):
            shard = self._shards[index]
            composition.into(shard[: bucket.length], index, bucket)
            self._inner.all_gather_into(self._flat.vectors[index], shard)

    def projecting(self, groups: Groups) -> AbstractContextManager[Measured]:
        return self._projecting(
            groups,
            self._gradients,
            lambda index, gradient_P: self._inner.reduce_scatter(gradient_P)[: self.buckets[index].length],
        )


class ShardedModel(_Summed):
    """The model's parameters are FSDP2 shards; each rank has the directions of its own shards' elements."""

    def __init__(self, inputs: PlacementInputs) -> None:
        super().__init__(inputs)
        self.buckets = inputs.buckets
        self.directions = inputs.open_directions(inputs.buckets, slice(None))
        self._gradients = Gradients(inputs.parameters, inputs.buckets, [bucket.length for bucket in inputs.buckets])

    @torch.no_grad()
    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        composition = _Composition(self.directions, weights_KG, groups)
        for index, bucket in enumerate(self.buckets):
            like, _ = local_part(self._parameters[bucket.pieces[0].name])
            vector = like.new_empty(bucket.length)
            composition.into(vector, index, bucket)
            for piece in bucket.pieces:
                local, _ = local_part(self._parameters[piece.name])
                local.copy_(vector[piece.offset : piece.offset + piece.length])

    def projecting(self, groups: Groups) -> AbstractContextManager[Measured]:
        # FSDP2 has cut the gradient, and averaged it over the ranks, by the time it arrives; a sum is wanted.
        return self._projecting(groups, self._gradients, lambda index, gradient_P: gradient_P * self._world.size)


class ByCheckpoint:
    """Each rank has all elements of its share of the checkpoints: the paper's scheme, kept to compare with."""

    def __init__(self, inputs: PlacementInputs) -> None:
        self.buckets = inputs.buckets
        self._world = inputs.world
        self._lengths, self._rows = share_of(inputs.count, inputs.world)
        self.directions = inputs.open_directions(inputs.buckets, self._rows)
        self._flat = FlatParameters(inputs.parameters, inputs.buckets, multiple_of=1)
        lengths = [bucket.length for bucket in inputs.buckets]
        self._gradients = Gradients(inputs.parameters, inputs.buckets, lengths, BucketOrder(len(lengths), inputs.world))

    @torch.no_grad()
    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        share = 1.0 if self._world.rank == 0 else 0.0
        composition = _Composition(self.directions, weights_KG, groups, self._rows, share)
        for index, bucket in enumerate(self.buckets):
            composition.into(self._flat.vectors[index], index, bucket)
            self._world.all_reduce(self._flat.vectors[index])

    @contextmanager
    def projecting(self, groups: Groups) -> Iterator[Measured]:
        projected = _Projected(self.directions, self.buckets, groups, self._lengths[self._world.rank])
        measured = _nothing_measured()
        with self._gradients.handed_to(
            lambda index, gradient_P: projected.add(index, self._world.all_reduce(gradient_P.contiguous()))
        ):
            yield measured
        projected.fill(measured, projected.with_loss(measured.loss))
        measured.gradient_KG = self._world.all_gather(measured.gradient_KG, self._lengths)
        measured.loss = self._world.all_reduce(measured.loss.reshape(1).clone())[0]

    def close(self) -> None:
        self.directions.close()


def _nothing_measured() -> Measured:
    return Measured(loss=torch.zeros(()), gradient_KG=torch.empty(0, 0, dtype=torch.float64))


def open_placement(name: str, inputs: PlacementInputs) -> Placement:
    """Collective."""
    if name == REPLICATED:
        return Replicated(inputs)
    if name == BY_CHECKPOINT:
        return ByCheckpoint(inputs)
    if name == SHARDED_MODEL:
        return ShardedModel(inputs)
    return ByParameter(inputs, inputs.world if name == BY_PARAMETER else inputs.world.split_by_node())
