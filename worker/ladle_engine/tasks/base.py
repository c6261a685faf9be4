"""What a task is: how the checkpoints' model is built, and how data become a loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet

Batch = Mapping[str, Tensor]
"""Named tensors whose first dimension is the example."""


Weighted = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""Statistics of N examples by name, float64 [N] or [N, S], and how often each example is in each of R samples, float64
[R, N] -> a metric of each sample, float64 [R]."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a model is measured by: the mean of one value per example, or any function of statistics of the examples.

    Perplexity is a function of two sums, BLEU of ten, a rank correlation of the examples' values themselves. Statistics
    are kept per example, so that a metric of a set is exact whatever its batches, and the same samples can be drawn of
    two models.
    """

    name: str
    higher_is_better: bool
    low: float = float("-inf")
    high: float = float("inf")
    """The range of one example's value: of the mean's, or of `rises_with`'s. Where the better end is known, models that
    cannot win any more are given up."""
    of: Weighted | None = None
    """See `ladle_engine.tasks.metrics` for the usual ones; None for the mean."""
    statistics: tuple[str, ...] = ()
    """What `of` needs, by name."""
    rises_with: str | None = None
    """A statistic of one number per example, with whose sum the metric rises as long as the examples are the same: the
    correct tokens, for a share of them. Then models can be given up as for a mean; without it, none is before it has
    seen all examples."""
    generated: bool = False
    """Whether it needs what the model generates: then it is computed only where it judges, by `Generates.generate`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the statistics that it is computed from."""
        return (self.name,) if self.of is None else self.statistics

    @property
    def per_example(self) -> str | None:
        """The statistic whose mean stands for the metric where two models are compared on the same examples."""
        return self.name if self.of is None else self.rises_with


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


@runtime_checkable
class Generates(Protocol):
    """A task with metrics of what the model generates."""

    def generate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The statistics that `generated` metrics need; as `Task.evaluate`."""
        ...


@runtime_checkable
class FitsFolder(Protocol):
    """A task that is not the same for every folder: its metrics may go by what `config.json` says."""

    def for_checkpoints(self, checkpoints: CheckpointSet) -> Task:
        """The task for this folder; called once, before any other method."""
        ...


@runtime_checkable
class TrainsUnlabelled(Protocol):
    """A classification task that can train coefficients on data without labels, by making predictions more certain
    (AdaMerging, Yang et al. 2024, section 3.2)."""

    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        """As `Task.open_data`, for data without labels. Labels that are there are not used."""
        ...

    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch of the entropy of what the model predicts, in nats: differentiable, float32 scalar.

        `ladle_engine.tasks.metrics.mean_entropy` makes it of logits.
        """
        ...


@runtime_checkable
class GivesLogits(Protocol):
    """A task whose loss is convex in what the model puts out, as cross-entropy is in the logits.

    What its checkpoints put out can then be kept, and combined without any model: see `ladle_engine.training.outputs`.
    `evaluate(model, batch)` must be `of_logits(logits(model, batch), targets(batch))`, and its loss the one that is
    trained. A subclass with a `loss` or an `evaluate` of its own does not count unless it has its own `of_logits` too.
    """

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """float32 [B, C], C the same for all batches: what belongs to an example does not depend on the others."""
        ...

    def targets(self, batch: Batch) -> Tensor:
        """What logits are compared with: of the batch, the first dimension the example."""
        ...

    def of_logits(self, logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        """The statistics that `evaluate` gives. `loss`, [B], has the type of the logits, is convex in them, and is
        differentiable."""
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
        """Every statistic that the metrics need, but those of `generated` ones: its name -> one row per example.

        float32 [B] for a metric that is a mean; for others [B] or [B, S], of floating or whole numbers. What belongs to
        an example must not depend on the others in its batch. One row per example is what lets two models be compared
        pair by pair.
        """
        ...
