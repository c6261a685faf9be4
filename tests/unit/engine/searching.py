"""Toys for tests of the method `search`: a loss with a known optimum, and metrics without a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.metrics import divided, of_sums
from tests.unit.engine.toy import ToyTask

SIZE = 6


class Point(nn.Module):
    """Its output is its parameter, in two layers' worth of tensors, whatever goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Linear(SIZE // 2, 1, bias=False)
        self.high = nn.Linear(SIZE // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, SIZE]"""
        return torch.cat([self.low.weight, self.high.weight], dim=1).expand(len(x), SIZE)


class Targets:
    """N points around one: the loss of a model is its mean squared distance from them."""

    def __init__(self, count: int) -> None:
        self.x = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(3)) + 0.5

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        return {"x": self.x[indices]}


class PointTask(ToyTask):
    """Counts the examples that it evaluates."""

    def __init__(self, count: int = 64) -> None:
        super().__init__(Point, count=count)
        self.evaluated: list[Tensor] = []

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> Targets:  # type: ignore[override]
        return Targets(self.count)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"]) - batch["x"]).square().sum(dim=1).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self.evaluated.append(batch["x"].clone())
        return {"loss": (model(batch["x"]) - batch["x"]).square().sum(dim=1)}


def write_points(folder: Path, count: int = 4) -> Tensor:
    """float64 K x D: checkpoints of `Point`, in order."""
    folder.mkdir(parents=True)
    points_KD = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(7))
    for index, point_D in enumerate(points_KD):
        low, high = point_D.view(2, 1, SIZE // 2).unbind()
        save_file(
            {"low.weight": low.contiguous(), "high.weight": high.contiguous()}, folder / f"step-{index}.safetensors"
        )
    return points_KD.double()


def f1(sums: Mapping[str, Tensor]) -> Tensor:
    return divided(2 * sums["hit"], sums["said"] + sums["true"])


class SignTask(ToyTask):
    """Says whether the toy's target is positive: judged by F1, which has no gradient and is no mean, or by what it
    generates."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="f1", higher_is_better=True, of=of_sums(f1), statistics=("hit", "said", "true")),
        Metric(name="exact", higher_is_better=True, low=0.0, high=1.0, generated=True),
        Metric(name="loss", higher_is_better=False),
    )
    generated = 0

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        said, true = model(batch["x"])[:, 0] > 0, batch["y"][:, 0] > 0
        return {**super().evaluate(model, batch), "hit": said & true, "said": said, "true": true}

    def generate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self.generated += len(batch["x"])
        return {"exact": ((model(batch["x"])[:, 0] * 2).round() == (batch["y"][:, 0] * 2).round()).float()}
