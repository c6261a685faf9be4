"""What a task is: how the checkpoints' model is built, and how data become a loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet

Batch = Mapping[str, Tensor]
"""Named tensors whose first dimension is the example."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    higher_is_better: bool
    low: float = float("-inf")
    high: float = float("inf")
    """The range of one example's value. Where the better end is known, models that cannot win any more are given up."""


class DataSet(Protocol):
    """Examples by index, so that splits, order and ranks are the engine's business alone."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Batch:
        """The examples at `indices` (int64 [B]), on the CPU."""
        ...


@runtime_checkable
class KeepsExamples(Protocol):
    """A data set that can keep what it has prepared, since every example is asked for many times."""

    def keep(self, max_bytes: int) -> None:
        """It may take so much memory from now on, and none before. What its batches hold stays the same."""
        ...


@runtime_checkable
class HasRemarks(Protocol):
    """A data set of which its user should be told something."""

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences; each becomes a warning."""
        ...


class Task(Protocol):
    """One kind of problem. Instances are made by the engine: `TaskType.from_options({...})`.

    Installed as an entry point in the group `ladle.tasks`; a job selects it by name and passes data, never code.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    """The first one is the default. One of them is named `loss`."""
    options_type: ClassVar[type]
    """A dataclass of `ladle_engine.options.option` fields. It has `batch_size: int`."""
    batch_size: int

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        """Whether the folder says, for instance by its `config.json`, that it is of this task."""
        ...

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self: ...

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        """The architecture with any weights; the engine fills them in."""
        ...

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        """Name in the model's `state_dict` -> name in the checkpoints, where the two differ by more than a prefix.

        None for a tensor that the model makes itself and the checkpoints lack. A key that is not in the `state_dict`
        stands for a tensor of the checkpoints that the model has no use for.
        """
        ...

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        """Raises `DataError` for data that are empty, of another task, or of classes the model does not know."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch, differentiable, float32 scalar."""
        ...

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Metric name -> float32 [B], one value per example; a metric is the mean over examples.

        One value per example is what lets two models be compared pair by pair.
        """
        ...
