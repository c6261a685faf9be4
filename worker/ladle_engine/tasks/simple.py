"""The least that a task of one's own can be: a network, data, and the loss of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import default_collate

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.options import option
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.with_options import WithOptions


@dataclass(frozen=True, kw_only=True)
class SimpleOptions:
    batch_size: int = option(128, "examples per batch, to train and to evaluate", at_least=1)


class SimpleTask(WithOptions[Any]):
    """A subclass has a `name`, a `summary`, and the methods `build_model`, `open_data` and `losses`.

    `ladle task new` writes one. It is recognised by `{"ladle_task": "its-name"}` in the folder's `config.json`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)
    options_type: ClassVar[type] = SimpleOptions

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return (checkpoints.config or {}).get("ladle_task") == cls.name

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        """The architecture with any weights."""
        raise NotImplementedError

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return {}

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        """What is at `path`; see `FromDataset`."""
        raise NotImplementedError

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each example, float32 [B]."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.losses(model, batch).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """A subclass with other metrics than the loss returns them here too."""
        return {"loss": self.losses(model, batch)}


class FromDataset:
    """A `DataSet` of any data set of torch's, with `__getitem__` and `__len__`."""

    def __init__(
        self, dataset: Any, names: Sequence[str] = (), collate: Callable[[list[Any]], Any] = default_collate
    ) -> None:
        """`names` are those of the parts where `collate` puts batches together as tuples; of mappings the keys are."""
        self._dataset = dataset
        self._names = tuple(names)
        self._collate = collate

    def __len__(self) -> int:
        dataset: Sized = self._dataset
        return len(dataset)

    def batch(self, indices: Tensor) -> Batch:
        batch = self._collate([self._dataset[index] for index in indices.tolist()])
        if isinstance(batch, Mapping):
            return batch
        return dict(zip(self._names, batch, strict=True))
