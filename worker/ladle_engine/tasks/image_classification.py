"""Image classification with a model of transformers, timm or torchvision, or with CLIP's encoder and a head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.errors import TaskError
from ladle_engine.options import option
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.images.data_sets import ImageShape, open_images
from ladle_engine.tasks.images.preprocessing import Preprocessing
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.images.unlabelled import open_unlabelled_images
from ladle_engine.tasks.metrics import mean_entropy
from ladle_engine.tasks.vision.choose_source import names_its_model, source_of
from ladle_engine.tasks.vision.class_metrics import CLASS_METRICS, TOP, TOP_5, class_statistics
from ladle_engine.tasks.vision.clip_vit import ACTIVATIONS
from ladle_engine.tasks.vision.crop_preprocessing import INTERPOLATIONS
from ladle_engine.tasks.vision.preprocessing_options import PreprocessingOptions
from ladle_engine.tasks.vision.sources import ModelSource
from ladle_engine.tasks.with_options import WithOptions


@dataclass(frozen=True, kw_only=True)
class ImageOptions(PreprocessingOptions):
    model: str | None = option(
        None, "a model of timm or torchvision by name, such as `timm:resnet18`; what the folder says when absent"
    )
    crop_pct: float | None = option(
        None,
        "for timm, torchvision and model soups: the share of the resized image that is cut out",
        above=0,
        at_most=2,
    )
    interpolation: str | None = option(
        None, "for timm, torchvision and model soups: how images are resized", one_of=tuple(INTERPOLATIONS)
    )
    activation: str | None = option(
        None, "for model soups: OpenAI's `quick_gelu` when absent", one_of=tuple(ACTIVATIONS)
    )

    def overrides(self, channels: int) -> Overrides:
        given = super().overrides(channels)
        return replace(given, crop_pct=self.crop_pct, interpolation=self.interpolation)


class ImageClassification(WithOptions[ImageOptions]):
    """A subclass that is installed as a plug-in overrides `recognises`, `build_model` and `shape`."""

    name: ClassVar[str] = "image-classification"
    summary: ClassVar[str] = "Classifies images with a model of transformers, timm, torchvision or model soups."
    metrics: ClassVar[tuple[Metric, ...]] = CLASS_METRICS
    options_type: ClassVar[type] = ImageOptions

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        made = super().from_options(options)
        if made.options.model is not None and cls.build_model is not ImageClassification.build_model:
            raise TaskError(
                "invalid-task-options",
                f"`model` of task `{cls.name}` must be absent, because the task has a model of its own, but is "
                f"`{made.options.model}`.",
            )
        return made

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return names_its_model(checkpoints)

    def for_checkpoints(self, checkpoints: CheckpointSet) -> Self:
        """Without `top-5` where there are no more classes than that."""
        if TOP_5 not in self.metrics or self.shape(checkpoints).num_classes > TOP:
            return self
        made = copy.copy(self)
        vars(made)["metrics"] = tuple(metric for metric in self.metrics if metric != TOP_5)
        return made

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        """The architecture alone: no download, no code from the folder, and whatever weights."""
        return self._source(checkpoints).build()

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return self._source(checkpoints).stored_names(model)

    def shape(self, checkpoints: CheckpointSet) -> ImageShape:
        """Channels and classes."""
        return self._source(checkpoints).shape()

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        shape = self._plausible_shape(checkpoints)
        return open_images(path, shape, self.preprocessing(checkpoints, shape), self.options)

    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        shape = self._plausible_shape(checkpoints)
        return open_unlabelled_images(path, shape, self.preprocessing(checkpoints, shape), self.options)

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
        """What the model was trained with, with the task's options in its place."""
        return self._source(checkpoints).preprocessing(shape, self.options.overrides(shape.channels))

    def _source(self, checkpoints: CheckpointSet) -> ModelSource:
        options = self.options
        return source_of(checkpoints, options.model, options.image_size, options.activation)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self.of_logits(self.logits(model, batch), self.targets(batch))

    def targets(self, batch: Batch) -> Tensor:
        return batch["labels"]

    def of_logits(self, logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        return class_statistics(logits, targets)

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
            if is_machine_fault(error) or not (isinstance(error, ValueError) or _is_of_a_library(model)):
                raise
            raise TaskError(
                "model-mismatch",
                f"The model must take a batch of the shape {tuple(images.shape)}, but says: {str(error)[:500]}",
            ) from error
        return logits_of(answer).to(torch.float32)


def _is_of_a_library(model: nn.Module) -> bool:
    return type(model).__module__.partition(".")[0] in ("transformers", "timm", "torchvision", "ladle_engine")


def logits_of(answer: Any) -> Tensor:
    """A model of transformers answers with an object, or with a tuple where its config says so."""
    found: Tensor = answer if isinstance(answer, Tensor) else answer[0] if isinstance(answer, tuple) else answer.logits
    return found
