"""Part of a data set, and how it is walked: by the task, in batches, on the model's device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.progress import pulse
from ladle_engine.tasks.base import Batch, DataSet, Task


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of `data` at `indices`."""

    task: Task
    data: DataSet
    indices: Tensor
    """int64 [N]"""
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    def head(self, most: int) -> Examples:
        return self.take(slice(0, most))

    def sample(self, most: int) -> Examples:
        """At most so many, in random order, the same every time: data often come sorted by class."""
        shuffled = torch.randperm(len(self.indices), generator=torch.Generator().manual_seed(0))
        return Examples(task=self.task, data=self.data, indices=self.indices[shuffled[:most]], device=self.device)

    def take(self, part: slice) -> Examples:
        return Examples(task=self.task, data=self.data, indices=self.indices[part], device=self.device)

    def batches(self) -> Iterator[Batch]:
        """All examples in order; the last batch may be short."""
        for start in range(0, len(self.indices), self.task.batch_size):
            yield self.batch(self.indices[start : start + self.task.batch_size])

    def batch(self, indices: Tensor) -> Batch:
        batch = self.data.batch(indices)
        pulse()
        if self.device.type == "cpu":
            return batch
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}


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
