"""What crosses between ranks, behind one interface, so that training code never asks whether it is distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collectives(Protocol):
    """Every method is collective: each rank must call it, in the same order."""

    rank: int
    size: int

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        ...

    def concatenate(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        """The ranks' one-dimensional shards one after the other; `lengths[r]` is rank r's."""
        ...


class SingleProcess:
    """The form for one process: nothing crosses."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def concatenate(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        assert list(lengths) == [len(shard)]
        return shard


class ProcessGroup:
    """The form over the default process group of `torch.distributed`, which must be initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def concatenate(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        # A collective wants equal sizes on every rank; the padding is cut away again.
        padded = shard.new_zeros(max(lengths))
        padded[: len(shard)] = shard
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:length] for part, length in zip(gathered, lengths, strict=True)])


def current_collectives() -> Collectives:
    """The process group's form when one is initialised, else the single-process form."""
    return ProcessGroup() if dist.is_available() and dist.is_initialized() else SingleProcess()


def share_of(total: int, collectives: Collectives) -> tuple[list[int], slice]:
    """How `total` items lie over the ranks, in order: every rank's length, and this rank's slice."""
    base, extra = divmod(total, collectives.size)
    lengths = [base + (rank < extra) for rank in range(collectives.size)]
    start = sum(lengths[: collectives.rank])
    return lengths, slice(start, start + lengths[collectives.rank])
