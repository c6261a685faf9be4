"""Image classification with a model of transformers, named by the folder's `config.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import option, parse_options
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.images import ImageShape, open_images
from ladle_engine.tasks.transformers_names import stored_names


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    batch_size: int = option(128, "examples a batch, to train and to evaluate", at_least=1)
    image_size: int | None = option(
        None, "height and width the images are resized to; the model's when absent", at_least=1
    )
    mean: list[float] | None = option(None, "per channel, subtracted; the preprocessor's when absent")
    std: list[float] | None = option(None, "per channel, divided by; the preprocessor's when absent")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to images in 0..1 before the model sees them."""

    size: tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __call__(self, images: Tensor) -> Tensor:
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        if self.mean is not None and self.std is not None:
            images = (images - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)
        return images


class ImageClassification:
    """A subclass that is installed as a plug-in overrides `recognises`, `build_model` and `shape`."""

    name: ClassVar[str] = "image-classification"
    summary: ClassVar[str] = "Classifies images with the transformers model that config.json names."
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0),
        Metric(name="loss", higher_is_better=False, low=0.0),
    )
    options_type: ClassVar[type] = ImageOptions

    def __init__(self, options: ImageOptions | None = None) -> None:
        """The defaults of `options_type` where there are no options."""
        self.options: ImageOptions = self.options_type() if options is None else options
        self.batch_size = self.options.batch_size

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        parsed: ImageOptions = parse_options(
            cls.options_type, options, owner=f"task `{cls.name}`", error=TaskError, code="invalid-task-options"
        )
        return cls(parsed)

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        architectures = (checkpoints.config or {}).get("architectures")
        return isinstance(architectures, list) and any(
            isinstance(name, str) and name.endswith("ForImageClassification") for name in architectures
        )

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        """The architecture alone: no download, no code from the folder, and whatever weights."""
        # transformers takes seconds to import, which a plug-in with a model of its own does not need.
        from transformers import AutoConfig, AutoModelForImageClassification

        config = dict(_config(checkpoints))
        model_type = config.pop("model_type", None)
        try:
            parsed = AutoConfig.for_model(model_type, **config)
            with torch.device("meta"):
                outline = AutoModelForImageClassification.from_config(parsed, trust_remote_code=False)
            _refuse_oversized(outline, checkpoints)
            model: nn.Module = AutoModelForImageClassification.from_config(parsed, trust_remote_code=False)
        except (TaskError, MemoryError):
            raise
        except Exception as error:
            # Wrong values fail wherever the model first uses them: ZeroDivisionError, RuntimeError, ImportError ...
            raise TaskError(
                "model-mismatch",
                f"`config.json` must describe an image classifier of transformers, but its model_type is "
                f"{model_type!r} ({type(error).__name__}: {str(error)[:300]}).",
            ) from error
        return model

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str]:
        # A plug-in's own model has no names but its own.
        return stored_names(model, checkpoints) if hasattr(model, "from_pretrained") else {}

    def shape(self, checkpoints: CheckpointSet) -> ImageShape:
        """Channels and classes, from the config's `num_channels` and `id2label`."""
        config = _config(checkpoints)
        labels = config.get("id2label")
        if isinstance(labels, dict) and labels:
            names = {str(name): int(label) for label, name in labels.items()}
            return ImageShape(channels=config.get("num_channels", 3), num_classes=len(labels), class_ids=names)
        # transformers leaves `id2label` out where it is its default of two.
        return ImageShape(
            channels=config.get("num_channels", 3), num_classes=config.get("num_labels", 2), class_ids=None
        )

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        shape = self.shape(checkpoints)
        preprocessing = self.preprocessing(checkpoints, shape)
        return open_images(path, shape, preprocessing.size, preprocessing)

    def preprocessing(self, checkpoints: CheckpointSet, shape: ImageShape) -> Preprocessing:
        """The options first, then `preprocessor_config.json`, then the model's own image size."""
        saved = _read_preprocessor(checkpoints)
        size = _size(self.options.image_size or saved.get("size") or (checkpoints.config or {}).get("image_size"))
        normalise = saved.get("do_normalize", bool(saved))
        mean = self.options.mean or (saved.get("image_mean") if normalise else None)
        std = self.options.std or (saved.get("image_std") if normalise else None)
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != shape.channels:
                raise TaskError(
                    "invalid-task-options",
                    f"`{name}` must have one number for each of {shape.channels} channels, but is {values}.",
                )
        return Preprocessing(size=size, mean=tuple(mean) if mean else None, std=tuple(std) if std else None)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        logits = self.logits(model, batch)
        return {
            "accuracy": (logits.argmax(dim=1) == batch["labels"]).to(torch.float32),
            "loss": F.cross_entropy(logits, batch["labels"], reduction="none"),
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """float32 [B, classes]; a model of transformers answers with an object, others with the tensor."""
        answer = model(batch["pixel_values"])
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits.to(torch.float32)


def _config(checkpoints: CheckpointSet) -> Mapping[str, Any]:
    """Raises `TaskError` (model-mismatch) where there is none: nothing else says which model it is."""
    if checkpoints.config is None:
        raise TaskError(
            "model-mismatch",
            f"Task `{ImageClassification.name}` must have a `config.json` of transformers, which names the model, but "
            f"`{checkpoints.folder}` has none. Copy it there; for a model of your own write a task: see docs/tasks.md.",
        )
    return checkpoints.config


def _refuse_oversized(outline: nn.Module, checkpoints: CheckpointSet) -> None:
    """`outline` has shapes and no memory: a stranger's config may ask for any amount of it."""
    wanted = sum(parameter.numel() for parameter in outline.parameters())
    stored = sum(math.prod(info.shape) for info in checkpoints.tensors.values())
    if wanted > 2 * stored:
        raise TaskError(
            "model-mismatch",
            f"`config.json` must describe the model of these checkpoints, but describes {wanted:,} parameters, and "
            f"they hold {stored:,}.",
        )


def _read_preprocessor(checkpoints: CheckpointSet) -> Mapping[str, Any]:
    path = next((path for path in checkpoints.side_files if path.name == "preprocessor_config.json"), None)
    if path is None:
        return {}
    try:
        parsed = json.loads(path.read_text())
    except ValueError as error:
        raise TaskError("model-mismatch", f"`{path}` must be a JSON file, but does not parse ({error}).") from error
    return parsed if isinstance(parsed, dict) else {}


def _size(value: Any) -> tuple[int, int] | None:
    """224, [224, 224], {"height": 224, "width": 224} or {"shortest_edge": 224}"""
    if isinstance(value, dict):
        edge = value.get("shortest_edge")
        value = (value.get("height", edge), value.get("width", edge))
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(edge, int) for edge in value):
        return (value[0], value[1])
    return None
