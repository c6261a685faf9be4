"""What crosses between ranks, behind one interface, so that training code never asks whether it is distributed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_group as get_default_group
from torch.distributed.distributed_c10d import _get_default_store as get_default_store

from ladle_engine.errors import EngineError

# torch 2.13 gave these two new names, and warns of the old ones.
_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

ROLL_CALL_S = 5.0
"""How long ranks have to answer after a collective has failed."""


class Collectives(Protocol):
    """Every method but `translate_collective_errors` is collective: each rank must call it, in the same order."""

    rank: int
    size: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        ...

    def all_gather(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        """The ranks' shards one after the other along the first dimension; `lengths[r]` is rank r's."""
        ...

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """This rank's part of the sum over ranks: `[size * n]` in, `[n]` out."""
        ...

    def all_gather_into(self, whole: Tensor, shard: Tensor) -> None:
        """Fills `whole`, `[size * n]`, with the ranks' shards of `[n]`."""
        ...

    def differentiable_all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over ranks as a new tensor, through which gradients flow (summed over ranks as well)."""
        ...

    def broadcast(self, content: bytes) -> bytes:
        """Rank 0's content, on every rank; what the others give does not count."""
        ...

    def split_by_node(self) -> Collectives:
        """The ranks of this machine, as torchrun started them; the same object each time.

        Raises `EngineError` (invalid-placement) where machines have different numbers of ranks.
        """
        ...

    def translate_collective_errors(self) -> AbstractContextManager[None]:
        """For collectives that others call, such as FSDP2 within a model: `RankLostError` when one fails inside.

        On a GPU a collective fails where its result is used, so that must be inside as well.
        """
        ...


class SingleProcess:
    """The form for one process: nothing crosses."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        assert list(lengths) == [len(shard)]
        return shard

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather_into(self, whole: Tensor, shard: Tensor) -> None:
        whole.copy_(shard)

    def differentiable_all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def broadcast(self, content: bytes) -> bytes:
        return content

    def split_by_node(self) -> Collectives:
        return self

    def translate_collective_errors(self) -> AbstractContextManager[None]:
        return nullcontext()


class RankLostError(RuntimeError):
    """A rank died or hangs, so a collective cannot end. Another attempt may succeed."""


class ProcessGroup:
    """The form over `torch.distributed`, which must be initialised; over all ranks unless a group is given.

    Every collective raises `RankLostError`, which names the rank, when one does not take part in time.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._node: Collectives | None = None
        """Made once: groups cost connections, and only end with the process."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        with self._translate_collective_errors():
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def all_gather(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        # A collective wants equal sizes on every rank; the padding is cut away again.
        padded = shard.new_zeros((max(lengths), *shard.shape[1:]))
        padded[: len(shard)] = shard
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        with self._translate_collective_errors():
            dist.all_gather(gathered, padded, group=self.group)
        return torch.cat([part[:length] for part, length in zip(gathered, lengths, strict=True)])

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        with self._translate_collective_errors():
            if tensor.device.type == "cpu":
                # gloo's own reduce-scatter sends as much as a whole all-reduce.
                parts = torch.empty_like(tensor)
                dist.all_to_all_single(parts, tensor, group=self.group)
                return parts.view(self.size, -1).sum(dim=0)
            shard = tensor.new_empty(len(tensor) // self.size)
            _reduce_scatter_single(shard, tensor, group=self.group)
            return shard

    def all_gather_into(self, whole: Tensor, shard: Tensor) -> None:
        with self._translate_collective_errors():
            _all_gather_single(whole, shard, group=self.group)

    def differentiable_all_reduce(self, tensor: Tensor) -> Tensor:
        summed: Tensor = _DifferentiableSum.apply(tensor, self)  # type: ignore[no-untyped-call]  # torch has no types
        return summed

    def broadcast(self, content: bytes) -> bytes:
        own = bytearray(content) if self.rank == 0 else bytearray()
        length = int(self.all_reduce(torch.tensor(len(own))))
        if not length:
            return b""
        message = torch.frombuffer(own, dtype=torch.uint8) if own else torch.empty(length, dtype=torch.uint8)
        with self._translate_collective_errors():
            dist.broadcast(message, group_src=0, group=self.group)
        return message.numpy().tobytes()

    def split_by_node(self) -> Collectives:
        if self._node is None:
            self._node = self._make_node()
        return self._node

    def _make_node(self) -> Collectives:
        own = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.size)))
        # Asked of all ranks, because all must make the same groups or none.
        sizes = sorted(set(self.all_gather(torch.tensor([own]), [1] * self.size).tolist()))
        if len(sizes) > 1 or self.size % own:
            raise EngineError(
                "invalid-placement",
                f"`placement=` must be another one where nodes differ in their number of ranks, but is `by-node`: "
                f"{self.size} ranks are on nodes of {' and '.join(str(size) for size in sizes)}.",
            )
        if own == self.size:
            return self
        if own == 1:
            return SingleProcess()
        # A new group does not inherit it; torch's own default is half an hour.
        timeout = get_default_group()._get_backend(torch.device("cpu")).options._timeout
        groups = [
            dist.new_group(list(range(first, first + own)), timeout=timeout) for first in range(0, self.size, own)
        ]
        return ProcessGroup(groups[self.rank // own])

    @contextmanager
    def translate_collective_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # A model has errors of its own, which another attempt would not mend.
            if isinstance(error, RankLostError) or not is_lost_rank(error):
                raise
            raise _lost(error) from error

    @contextmanager
    def _translate_collective_errors(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _lost(error) from error


def is_lost_rank(error: BaseException) -> bool:
    """Whether a collective failed."""
    if isinstance(error, (RankLostError, dist.DistError)):
        return True
    # gloo has no class of its own for its errors, but each names the place in its source.
    return isinstance(error, RuntimeError) and re.search(r"gloo/\S+\.(cc|h):\d+", str(error)) is not None


def _lost(error: RuntimeError) -> RankLostError:
    return RankLostError(
        f"Rank {dist.get_rank()} could not finish a collective with the others: {_roll_call()}. ({error})"
    )


_roll_calls = count()
"""Numbered, so that an answer to an earlier one does not pass for a sign of life."""


def _roll_call() -> str:
    """Which ranks do not answer, in words. Through the store: the connections between ranks may be broken."""
    ranks = range(dist.get_world_size())
    key = f"roll-call/{next(_roll_calls)}"
    try:
        store = get_default_store()
        store.set(f"{key}/{dist.get_rank()}", "here")
        deadline = time.monotonic() + ROLL_CALL_S
        while missing := [rank for rank in ranks if not store.check([f"{key}/{rank}"])]:
            if time.monotonic() > deadline:
                return " and ".join(f"rank {rank}" for rank in missing) + " did not answer"
            time.sleep(0.1)
    except RuntimeError:
        return "rank 0, or whatever else holds the store, did not answer"
    return "every rank answers again"


class _DifferentiableSum(torch.autograd.Function):
    """`y = sum_r x_r` on every rank; every rank's loss depends on `y`, so the gradient by `x` is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor, ranks: ProcessGroup) -> Tensor:
        ctx.ranks = ranks  # type: ignore[attr-defined]  # where autograd functions keep what backward needs
        return ranks.all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.all_reduce(gradient.clone()), None  # type: ignore[attr-defined]  # as above


def current_collectives() -> Collectives:
    """The process group's form when one is initialised, else the single-process form."""
    return ProcessGroup() if dist.is_available() and dist.is_initialized() else SingleProcess()


def share_of(total: int, collectives: Collectives) -> tuple[list[int], slice]:
    """How `total` items lie over the ranks, in order: every rank's length, and this rank's slice."""
    base, extra = divmod(total, collectives.size)
    lengths = [base + (rank < extra) for rank in range(collectives.size)]
    start = sum(lengths[: collectives.rank])
    return lengths, slice(start, start + lengths[collectives.rank])


def smallest_over_ranks(own: int, collectives: Collectives) -> int:
    """Collective: with directions of different precision the ranks' models would drift apart."""
    numbers = torch.zeros(collectives.size, dtype=torch.float64)
    numbers[collectives.rank] = own
    return int(collectives.all_reduce(numbers).min())


def largest_over_ranks(own: int, collectives: Collectives) -> int:
    """Collective."""
    return -smallest_over_ranks(-own, collectives)
