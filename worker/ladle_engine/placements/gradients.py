"""Gradients, bucket by bucket, as backward makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ladle_engine.directions.buckets import Bucket
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.distributed.sharded import is_dtensor
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
        self.parameters = parameters
        self.buckets = buckets
        self.padded = padded
        self.bucket_order = bucket_order
        self.bucket_of = {piece.name: index for index, bucket in enumerate(buckets) for piece in bucket.pieces}

    @contextmanager
    def handed_to(self, take: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Calls `take(index, gradient_P)` for every bucket. A parameter that takes no part has the gradient 0."""
        arrivals = _Arrivals(self, take)
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(arrivals.arrive, name))
            for name, parameter in self.parameters.items()
            if parameter.requires_grad
        ]
        try:
            yield
            arrivals.finish()
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self.parameters.values():
                parameter.grad = None


class _Arrivals:
    """The gradients of one backward pass: which have come, and which buckets wait for theirs."""

    def __init__(self, gradients: Gradients, take: Callable[[int, Tensor], None]) -> None:
        self._gradients = gradients
        self._take = take
        self._arrived: dict[str, Tensor] = {}
        parameters, buckets = gradients.parameters, gradients.buckets
        self._missing = [sum(parameters[piece.name].requires_grad for piece in bucket.pieces) for bucket in buckets]
        """How many gradients each bucket still waits for."""
        self._completed: list[int] = []
        order = gradients.bucket_order
        self._waiting = list(order.order if order else range(len(buckets)))
        """Buckets that have not been handed over, in the order in which they will be, if there is one."""

    def arrive(self, name: str, parameter: nn.Parameter) -> None:
        """autograd calls it when a parameter's gradient is complete."""
        assert parameter.grad is not None
        # An embedding may make a sparse gradient; rows of directions are dense.
        gradient = parameter.grad.to_dense() if parameter.grad.layout != torch.strided else parameter.grad
        parameter.grad = None
        index = self._gradients.bucket_of.get(name)
        if index is None:
            return
        self._arrived[name] = (gradient.to_local() if is_dtensor(gradient) else gradient).reshape(-1)
        self._missing[index] -= 1
        if self._missing[index] == 0:
            self._complete(index)

    def finish(self) -> None:
        """After backward: hands over what still waits."""
        while self._waiting:
            self._hand_over(self._waiting[0])
        if self._gradients.bucket_order:
            self._gradients.bucket_order.learn(self._completed)

    def _complete(self, index: int) -> None:
        self._completed.append(index)
        if self._gradients.bucket_order is None:
            self._hand_over(index)
            return
        while self._waiting and self._missing[self._waiting[0]] == 0:
            self._hand_over(self._waiting[0])

    def _hand_over(self, index: int) -> None:
        self._waiting.remove(index)
        self._take(index, self._flat(index))

    def _flat(self, index: int) -> Tensor:
        """Takes a bucket's gradients out of those that arrived, all at once: on a GPU every copy would be a kernel."""
        bucket = self._gradients.buckets[index]
        like, _ = local_part(self._gradients.parameters[bucket.pieces[0].name])
        parts = [
            like.new_zeros(piece.length) if (gradient := self._arrived.pop(piece.name, None)) is None else gradient
            for piece in bucket.pieces
        ]
        if padding := self._gradients.padded[index] - bucket.length:
            parts.append(like.new_zeros(padding))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
