"""Part of a data set, and how it is walked: by the task, in batches, on the model's device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ladle_engine.progress import pulse
from ladle_engine.tasks.base import Batch, DataSet, Task
from ladle_engine.tasks.joined import JoinedData, Strata


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of `data` at `indices`; they may be of several sets, each of which counts as much as its weight."""

    task: Task
    data: DataSet
    indices: Tensor
    """int64 [N]"""
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def strata(self) -> Strata | None:
        """None where all are of one set."""
        return self.data.strata(self.indices) if isinstance(self.data, JoinedData) else None

    @property
    def sets(self) -> list[Examples]:
        """The examples of each set, as those of a single one."""
        if not isinstance(self.data, JoinedData):
            return [self]
        parts = zip(self.data.sets, self.positions_by_set(), strict=True)
        return [replace(self, data=data, indices=self.indices[own] - start) for (data, start), (_, own) in parts]

    def positions_by_set(self) -> list[tuple[float, Tensor]]:
        """The weight of each set, and where its examples are among these."""
        strata = self.strata
        if strata is None:
            return [(1.0, torch.arange(len(self)))]
        return list(zip(strata.weights, strata.positions(), strict=True))

    @property
    def effective_count(self) -> int:
        """So many examples of a single set would leave as much to chance as these: all, for one set."""
        return round(1 / sum(weight**2 / len(positions) for weight, positions in self.positions_by_set()))

    def at(self, positions: Tensor | slice) -> Examples:
        return replace(self, indices=self.indices[positions])

    def head(self, most: int) -> Examples:
        """The first ones of one set, so that they make a batch."""
        (_, positions), *_ = self.positions_by_set()
        return self.at(positions[:most])

    def sample(self, most: int) -> Examples:
        """At most so many, in random order, the same every time: data often come sorted by class.

        Of several sets as their weights say, and fewer where one of them has no more.
        """
        by_set = self.positions_by_set()
        most = min(most, *(int(len(positions) / weight) for weight, positions in by_set), len(self))
        drawn = [_shuffled(positions)[: max(round(weight * most), 1)] for weight, positions in by_set]
        return self.at(drawn[0] if len(drawn) == 1 else _shuffled(torch.cat(drawn)))

    def batch_positions(self) -> list[Tensor]:
        """Where the examples of each batch are among these: in order and set by set, since examples of two sets may
        have no common shape. The last batch of a set may be short."""
        size = self.task.batch_size
        return [batch for _, positions in self.positions_by_set() if len(positions) for batch in positions.split(size)]

    def by_set(self, indices: Tensor) -> list[tuple[float, Tensor]]:
        """Some of the indices, those of each set with its weight; they go through the model set by set."""
        if not isinstance(self.data, JoinedData):
            return [(1.0, indices)]
        by_set = replace(self, indices=indices).positions_by_set()
        return [(weight, indices[positions]) for weight, positions in by_set if len(positions)]

    def batch(self, indices: Tensor) -> Batch:
        batch = self.data.batch(indices)
        pulse()
        if self.device.type == "cpu":
            return batch
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}


def join(sets: Mapping[str, Examples], data: JoinedData) -> Examples:
    """The examples of several sets of one task, which `data` consists of."""
    indices = torch.cat([start + part.indices for (_, start), part in zip(data.sets, sets.values(), strict=True)])
    return replace(next(iter(sets.values())), data=data, indices=indices)


def _shuffled(values: Tensor) -> Tensor:
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]


def split(total: int, select_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The fit split and the select split: a seeded shuffle, cut once. Both are sorted, so data are read in order."""
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    num_select = round(total * select_fraction)
    return shuffled[num_select:].sort().values, shuffled[:num_select].sort().values


def even_batches(indices: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Cut into batches as equal as can be: a short last one would weigh as little as it is long.

    None is of a single example, whose batch has no variance for BatchNorm, unless `batch_size` says so: then one batch
    may be longer by one.
    """
    count = math.ceil(len(indices) / batch_size)
    if batch_size > 1:
        count = min(count, max(len(indices) // 2, 1))
    return indices.tensor_split(count)
