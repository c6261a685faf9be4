"""EfficientNet-lite0, trained on ImageNet, tells broken solar cells from sound ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import places  # noqa: F401  # finds the benchmarks
import torch
from pools import Search, Setting, Sizes, orders
from solar_cells import SolarCells, as_input, photographs, pretrained
from torch import Tensor, nn

from ladle_engine.tasks.base import Task


class CellsPool:
    name: ClassVar[str] = "cells"
    batch: ClassVar[int] = 32

    def __init__(self, *, quick: bool) -> None:
        self.task: str | type[Task] = SolarCells
        self.task_options: Mapping[str, Any] = {"batch_size": 64}
        self.search = Search(rates=(1e-4, 1e-3), epochs=(1, 1) if quick else (2, 4))
        self.sizes = (
            Sizes(pool=4, nested=(2, 4), train=64, val=64, test=64)
            if quick
            else Sizes(train=1_000, val=600, test=1_024)
        )

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        """Photographs and labels, those of the training part first."""
        images, labels = photographs()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return images[order], labels[order]

    def ancestor(self, checkpoints: Path) -> nn.Module:
        (checkpoints / "config.json").write_text(json.dumps({"ladle_task": SolarCells.name}))
        torch.manual_seed(0)
        return pretrained().to(memory_format=torch.channels_last)

    def steps(self, setting: Setting) -> int:
        return setting.epochs * (self.sizes.train // self.batch)

    def batches(self, setting: Setting) -> Any:
        images, labels = self._data
        generator = torch.Generator().manual_seed(setting.seed)
        for indices in orders(self.sizes.train, self.batch, setting):
            pixels = images[indices].float() / 255
            if setting.augmented:
                # A cell is as broken from any side.
                axes = [axis for axis in (2, 3) if torch.rand((), generator=generator) < 0.5]
                pixels = pixels.flip(axes)
            yield as_input(pixels).contiguous(memory_format=torch.channels_last), labels[indices]

    def logits(self, model: nn.Module, inputs: Any) -> Tensor:
        logits: Tensor = model(inputs)
        return logits

    def write_parts(self, folder: Path, seed: int) -> tuple[Path, Path]:
        images, labels = self._data
        sizes, first = self.sizes, self.sizes.train
        order = torch.randperm(len(labels) - first, generator=torch.Generator().manual_seed(seed)) + first
        for name, part in (("val", order[: sizes.val]), ("test", order[sizes.val : sizes.val + sizes.test])):
            np.savez(folder / f"{name}.npz", images=images[part].numpy(), labels=labels[part].numpy())
        return folder / "val.npz", folder / "test.npz"
