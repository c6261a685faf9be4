"""Image classification with a model of transformers, named by the folder's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.errors import TaskError
from ladle_engine.options import option, parse_options
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.images import ImageShape, open_images
from ladle_engine.tasks.metrics import mean_entropy
from ladle_engine.tasks.preprocessing import (
    DEVIATIONS,
    MAX_SIDE,
    MEANS,
    PlainPreprocessing,
    Preprocessing,
    all_within,
)
from ladle_engine.tasks.processor import Overrides, open_processor
from ladle_engine.tasks.processor_file import find_processor
from ladle_engine.tasks.transformers_names import stored_names
from ladle_engine.tasks.unlabelled_images import open_unlabelled_images


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    batch_size: int = option(128, "examples per batch, to train and to evaluate", at_least=1)
    image_size: int | None = option(
        None,
        "height and width of what the model gets; the processor's when absent",
        at_least=1,
        at_most=MAX_SIDE,
    )
    mean: list[float] | None = option(None, "per channel, subtracted; the processor's when absent")
    std: list[float] | None = option(None, "per channel, divided by; the processor's when absent")

    def check(self, owner: str) -> None:
        for name, values, bounds in (("mean", self.mean, MEANS), ("std", self.std, DEVIATIONS)):
            if values is not None and (not values or not all_within(values, bounds)):
                raise TaskError(
                    "invalid-task-options",
                    f"`{name}` of {owner} must be numbers from {bounds[0]:g} to {bounds[1]:g}, but is {values}.",
                )


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
        config = model_config.parse_config(checkpoints)
        return model_config.build(checkpoints, config, "AutoModelForImageClassification")

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        # A plug-in's own model has no names but its own.
        return stored_names(model, checkpoints) if is_of_transformers(model) else {}

    def shape(self, checkpoints: CheckpointSet) -> ImageShape:
        """Channels and classes, from the config's `num_channels` and `id2label`."""
        config = model_config.checked(checkpoints)
        num_classes, names = model_config.class_ids(config)
        return ImageShape(channels=model_config.num_channels(config), num_classes=num_classes, class_ids=names)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        shape = self._plausible_shape(checkpoints)
        return open_images(path, shape, self.preprocessing(checkpoints, shape))

    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        shape = self._plausible_shape(checkpoints)
        return open_unlabelled_images(path, shape, self.preprocessing(checkpoints, shape))

    def _plausible_shape(self, checkpoints: CheckpointSet) -> ImageShape:
        shape = self.shape(checkpoints)
        stored = sum(info.numel for info in checkpoints.tensors.values())
        if shape.num_classes > stored:
            raise TaskError(
                "model-mismatch",
                f"`config.json` must describe the model of these checkpoints, which hold {stored:,} numbers, but "
                f"describes {shape.num_classes:,} classes.",
            )
        return shape

    def preprocessing(self, checkpoints: CheckpointSet, shape: ImageShape) -> Preprocessing:
        """The folder's processor with the task's options in its place; without one, a resize to the model's size."""
        options = self._overrides(shape)
        file = find_processor(checkpoints)
        if file is not None and shape.channels in (1, 3):
            return open_processor(file, checkpoints, shape.channels, options)
        if (options.mean is None) != (options.std is None):
            absent = "mean" if options.mean is None else "std"
            raise TaskError(
                "invalid-task-options",
                f"`mean` and `std` must be given together where no processor lies beside the checkpoints, but "
                f"`{absent}` is absent.",
            )
        side = self.options.image_size
        size = model_config.image_size(checkpoints.config or {}) if side is None else (side, side)
        return PlainPreprocessing(size=size, mean=options.mean, std=options.std)

    def _overrides(self, shape: ImageShape) -> Overrides:
        given = {"mean": self.options.mean, "std": self.options.std}
        for name, values in given.items():
            if values is not None and len(values) != shape.channels:
                raise TaskError(
                    "invalid-task-options",
                    f"`{name}` must have one number for each of {shape.channels} channels, but is {values}.",
                )
        per_channel = {name: tuple(values) if values is not None else None for name, values in given.items()}
        return Overrides(image_size=self.options.image_size, mean=per_channel["mean"], std=per_channel["std"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        logits = self.logits(model, batch)
        return {
            "accuracy": (logits.argmax(dim=1) == batch["labels"]).to(torch.float32),
            "loss": F.cross_entropy(logits, batch["labels"], reduction="none"),
        }

    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        return mean_entropy(self.logits(model, batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """float32 [B, classes]"""
        images = batch["pixel_values"]
        try:
            answer = model(images)
        except Exception as error:
            # Images of another size or number of channels, most of all. What a config asks for may fail anywhere in a
            # model of transformers; a plug-in's own model has faults of its own.
            if is_machine_fault(error) or not (isinstance(error, ValueError) or is_of_transformers(model)):
                raise
            raise TaskError(
                "model-mismatch",
                f"The model must take a batch of the shape {tuple(images.shape)}, but says: {str(error)[:500]}",
            ) from error
        return logits_of(answer).to(torch.float32)


def is_of_transformers(model: nn.Module) -> bool:
    return hasattr(model, "from_pretrained")


def logits_of(answer: Any) -> Tensor:
    """A model of transformers answers with an object, or with a tuple where its config says so."""
    found: Tensor = answer if isinstance(answer, Tensor) else answer[0] if isinstance(answer, tuple) else answer.logits
    return found
