"""Gradients, bucket by bucket, as backward makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ladle_engine.directions.buckets import Bucket
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.model.local_shard import local_part


class FlatParameters:
    """Parameters whose storage is one flat vector a bucket, so that composing a bucket fills them without a copy."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], buckets: Sequence[Bucket], multiple_of: int) -> None:
        self.vectors: list[Tensor] = []
        """float32, each padded with zeros to a multiple of `multiple_of`."""
        for bucket in buckets:
            first = parameters[bucket.pieces[0].name]
            vector = torch.zeros(-(-bucket.length // multiple_of) * multiple_of, dtype=first.dtype, device=first.device)
            for piece in bucket.pieces:
                parameter = parameters[piece.name]
                assert piece.length == parameter.numel(), "a bucket of a whole model holds whole parameters"
                view = vector[piece.offset : piece.offset + piece.length].view(parameter.shape)
                view.copy_(parameter.detach())
                parameter.data = view
            self.vectors.append(vector)


class BucketOrder:
    """One order of buckets for all ranks, as those need that meet over each bucket.

    It is the order in which the buckets were complete in the first pass, on rank 0. In that pass itself the last bucket
    comes first, as its gradients mostly do; but a bucket without gradients there, say of a head that this task does not
    use, would keep all others waiting.
    """

    def __init__(self, count: int, ranks: Collectives) -> None:
        self.order = list(reversed(range(count)))
        self._ranks = ranks
        self._is_learned = False

    def learn(self, completed: Sequence[int]) -> None:
        """Collective, after a pass; those that are not among `completed` come last. The first pass alone counts."""
        if self._is_learned:
            return
        silent = [index for index in self.order if index not in completed]
        order = torch.tensor([*completed, *silent], dtype=torch.int64)
        self.order = self._ranks.all_reduce(order if self._ranks.rank == 0 else torch.zeros_like(order)).tolist()
        self._is_learned = True


class Gradients:
    """Hands over the flat gradient of each bucket once it is complete, and frees the parameters' own.

    With `bucket_order` a bucket also waits for its turn, at the latest until backward has ended. So all ranks keep to
    one order, whatever their own gradients do.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        buckets: Sequence[Bucket],
        padded: Sequence[int],
        bucket_order: BucketOrder | None = None,
    ) -> None:
        self._parameters = parameters
        self._buckets = buckets
        self._padded = padded
        self._bucket_order = bucket_order
        self._bucket_of = {piece.name: index for index, bucket in enumerate(buckets) for piece in bucket.pieces}

    @contextmanager
    def handed_to(self, take: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Calls `take(index, gradient_P)` for every bucket. A parameter that takes no part has the gradient 0."""
        missing = [
            sum(self._parameters[piece.name].requires_grad for piece in bucket.pieces) for bucket in self._buckets
        ]
        arrived: dict[str, Tensor] = {}
        completed: list[int] = []
        waiting = list(self._bucket_order.order if self._bucket_order else range(len(self._buckets)))

        def hand_over(index: int) -> None:
            waiting.remove(index)
            take(index, self._flat(index, arrived))

        def complete(index: int) -> None:
            completed.append(index)
            if self._bucket_order is None:
                hand_over(index)
            while self._bucket_order and waiting and missing[waiting[0]] == 0:
                hand_over(waiting[0])

        def hook(parameter: nn.Parameter, name: str) -> None:
            assert parameter.grad is not None
            # An embedding may make a sparse gradient; rows of directions are dense.
            gradient = parameter.grad.to_dense() if parameter.grad.layout != torch.strided else parameter.grad
            parameter.grad = None
            if name not in self._bucket_of:
                return
            arrived[name] = (gradient.to_local() if isinstance(gradient, DTensor) else gradient).reshape(-1)
            index = self._bucket_of[name]
            missing[index] -= 1
            if missing[index] == 0:
                complete(index)

        handles = [
            parameter.register_post_accumulate_grad_hook(lambda parameter, name=name: hook(parameter, name))
            for name, parameter in self._parameters.items()
            if parameter.requires_grad
        ]
        try:
            yield
            while waiting:
                hand_over(waiting[0])
            if self._bucket_order:
                self._bucket_order.learn(completed)
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self._parameters.values():
                parameter.grad = None

    def _flat(self, index: int, arrived: dict[str, Tensor]) -> Tensor:
        """Takes a bucket's gradients out of `arrived`: gathered at once, for on a GPU a copy each would be a kernel."""
        pieces, padded = self._buckets[index].pieces, self._padded[index]
        like, _ = local_part(self._parameters[pieces[0].name])
        parts = [
            like.new_zeros(piece.length) if (gradient := arrived.pop(piece.name, None)) is None else gradient
            for piece in pieces
        ]
        if padding := padded - self._buckets[index].length:
            parts.append(like.new_zeros(padding))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
