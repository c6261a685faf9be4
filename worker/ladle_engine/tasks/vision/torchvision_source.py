"""An image classifier of torchvision, by name, with the preprocessing that its ImageNet weights are documented with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.vision.bounds import translated_model
from ladle_engine.tasks.vision.crop_preprocessing import CropPreprocessing, with_overrides
from ladle_engine.tasks.vision.named_model import agreed_classes, classes_in_head, known_name, on_meta

WHERE = "Task option `model`"
USUAL = {"crop_size": 224, "resize_size": 256, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource:
    checkpoints: CheckpointSet
    model: str
    image_size: int | None = None
    """The task's option: some models, such as `vit_b_16`, are built for one size."""

    def build(self) -> nn.Module:
        with translated_model("torchvision", self.model, WHERE):
            return self._create(self._num_classes)

    def stored_names(self, model: nn.Module) -> Mapping[str, str | None]:
        return {}

    def shape(self) -> ImageShape:
        return ImageShape(channels=3, num_classes=self._num_classes, class_ids=None)

    def preprocessing(self, shape: ImageShape, overrides: Overrides) -> CropPreprocessing:
        """As the transforms of the model's first ImageNet weights (`IMAGENET1K_V1`, where there are such)."""
        preset = self._preset()
        crop, resize = int(preset["crop_size"]), int(preset["resize_size"])
        mode = preset.get("interpolation")
        usual = CropPreprocessing(
            size=(crop, crop),
            scale=(resize, resize),
            interpolation="bilinear" if mode is None else str(mode.value),
            mean=tuple(preset["mean"]),
            std=tuple(preset["std"]),
        )
        return with_overrides(usual, overrides)

    def _preset(self) -> dict[str, Any]:
        models = require("torchvision.models", "vision")
        weights = list(models.get_model_weights(self._name))
        return USUAL | (dict(weights[0].transforms.keywords) if weights else {})

    @cached_property
    def _name(self) -> str:
        models = require("torchvision.models", "vision")
        return known_name(self.model, models.list_models(module=models), "torchvision", WHERE)

    @cached_property
    def _num_classes(self) -> int:
        with translated_model("torchvision", self.model, WHERE):
            in_head = classes_in_head(self._small, self.checkpoints)
        return agreed_classes(None, in_head, WHERE)

    def _small(self, num_classes: int) -> nn.Module:
        try:
            return on_meta(lambda: self._create(num_classes))
        except NotImplementedError:
            # RegNet reads the widths of its blocks from tensors.
            return self._create(num_classes)

    def _create(self, num_classes: int) -> nn.Module:
        models = require("torchvision.models", "vision")
        arguments: dict[str, Any] = {"weights": None, "num_classes": num_classes}
        if self._name in ("googlenet", "inception_v3"):
            has_heads = any(name.lower().startswith("aux") or ".aux" in name.lower() for name in self._stored)
            arguments |= {"init_weights": False, "aux_logits": has_heads}
        elif self.image_size is not None and "image_size" in _parameters(models, self._name):
            arguments["image_size"] = self.image_size
        model: nn.Module = models.get_model(self._name, **arguments)
        return model

    @property
    def _stored(self) -> Mapping[str, Any]:
        return self.checkpoints.tensors


def _parameters(models: Any, name: str) -> set[str]:
    """Of the class that the model's builder makes, as far as its name tells."""
    return set(inspect.signature(models.VisionTransformer).parameters) if name.startswith("vit_") else set()
