"""Models that are points: a loss that is known in closed form, so that lines, basins and planes are known too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks.base import Batch, Metric
from tests.unit.engine.toy import ToyTask

Loss = Callable[[Tensor], Tensor]
"""Of a point."""


class Point(nn.Module):
    """Two layers, so that methods by layer have something to choose."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.first = nn.Linear(1, first, bias=False)
        self.second = nn.Linear(1, second, bias=False)

    @property
    def place(self) -> Tensor:
        return torch.cat([self.first.weight[:, 0], self.second.weight[:, 0]])


class PointData:
    """`x` scales the loss of each example: between 0.5 and 1.5, 1 in the mean."""

    def __init__(self, count: int) -> None:
        self.x = torch.linspace(0.5, 1.5, count)[torch.randperm(count)]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        return {"x": self.x[indices]}


class PointTask(ToyTask):
    """The loss of an example is its scale times the loss of the point."""

    name: ClassVar[str] = "points"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)

    def __init__(self, loss: Loss, first: int = 1, second: int = 1, count: int = 64) -> None:
        super().__init__(lambda: Point(first, second), count)
        self.loss_at = loss
        self.evaluated = 0
        """Batches."""

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> Any:
        torch.manual_seed(0)
        return PointData(self.count)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._losses(model, batch).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self.evaluated += 1
        return {"loss": self._losses(model, batch)}

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Point)
        return batch["x"] * self.loss_at(model.place)


def write_points(folder: Path, points: Sequence[Sequence[float]], first: int = 1) -> Path:
    """`step-0.safetensors` ..."""
    folder.mkdir(parents=True)
    for number, point in enumerate(points):
        place = torch.tensor(point, dtype=torch.float32)[:, None]
        tensors = {"first.weight": place[:first].clone(), "second.weight": place[first:].clone()}
        save_file(tensors, folder / f"step-{number}.safetensors")
    return folder
