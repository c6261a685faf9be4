"""A task plug-in: image classification with a small convolutional network of one's own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks.image_classification import ImageClassification
from ladle_engine.tasks.images import ImageShape

CONFIG_KEYS = ("num_channels", "num_classes", "image_size", "width", "batch_norm")


class SmallCnn(nn.Module):
    """Two convolutions and two linear layers; `image_size` must be a multiple of 4."""

    def __init__(self, num_channels: int, num_classes: int, image_size: int, width: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_channels, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity()
        self.hidden = nn.Linear(2 * width * (image_size // 4) ** 2, 4 * width)
        self.classify = nn.Linear(4 * width, num_classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.norm1(self.conv1(pixel_values))), 2)
        x = torch.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        logits: Tensor = self.classify(torch.relu(self.hidden(x.flatten(1))))
        return logits


class SmallCnnTask(ImageClassification):
    """Data, loss and metrics are those of image classification; only the model is its own."""

    name: ClassVar[str] = "small-cnn"
    summary: ClassVar[str] = "Classifies images with a small CNN; the example of a plug-in."

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return (checkpoints.config or {}).get("ladle_task") == cls.name

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return SmallCnn(**_architecture(checkpoints))

    def shape(self, checkpoints: CheckpointSet) -> ImageShape:
        architecture = _architecture(checkpoints)
        return ImageShape(
            channels=architecture["num_channels"], num_classes=architecture["num_classes"], class_ids=None
        )


def _architecture(checkpoints: CheckpointSet) -> dict[str, Any]:
    config = checkpoints.config or {}
    if missing := [key for key in CONFIG_KEYS if key not in config]:
        raise TaskError(
            "model-mismatch", f"`config.json` must have {', '.join(CONFIG_KEYS)}, but lacks `{missing[0]}`."
        )
    return {key: config[key] for key in CONFIG_KEYS}
