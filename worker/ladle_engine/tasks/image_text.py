"""Images with texts: zero-shot classification and retrieval with a dual encoder of transformers, such as CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import DataError, TaskError
from ladle_engine.options import option
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.images.data_sets import ArrayImages, DecodedImages, ImageShape, mode_for, open_images, sized
from ladle_engine.tasks.images.preprocessing import Preprocessing
from ladle_engine.tasks.images.unlabelled import UnlabelledImages, open_unlabelled_images
from ladle_engine.tasks.metrics import mean_entropy
from ladle_engine.tasks.text.heads import architectures_of
from ladle_engine.tasks.vision.class_metrics import ranks
from ladle_engine.tasks.vision.class_texts import SLOT, ClassTexts, class_texts
from ladle_engine.tasks.vision.dual_encoder import (
    ARCHITECTURES,
    build_dual_encoder,
    dual_encoder_names,
    encoded,
    similarities,
)
from ladle_engine.tasks.vision.pairs import GroupedPairs, groups_of, is_pairs, open_pairs
from ladle_engine.tasks.vision.preprocessing_options import PreprocessingOptions
from ladle_engine.tasks.vision.text_inputs import TextInputs, text_inputs
from ladle_engine.tasks.vision.transformers_source import TransformersSource
from ladle_engine.tasks.with_options import WithOptions

TOPS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class ImageTextOptions(PreprocessingOptions):
    batch_size: int = option(32, "images per batch with classes; groups of pairs per batch with captions", at_least=1)
    templates: list[str] = option(
        ["a photo of a {}."], "texts of a class, its name in place of {}; their features are averaged"
    )
    classes: list[str] | None = option(
        None, "names of the classes in order of the labels; `classes.txt` or the folders' names when absent"
    )
    candidates: int = option(
        32, "pairs in a group: each image is compared with so many captions, and each caption with as many images",
        at_least=2, at_most=1024,
    )  # fmt: skip

    def check(self, owner: str) -> None:
        super().check(owner)
        if not self.templates or any(template.count(SLOT) != 1 for template in self.templates):
            raise TaskError(
                "invalid-task-options",
                f"`templates` of {owner} must be texts with one `{SLOT}` each, where the name of a class goes, but are "
                f"{self.templates}.",
            )
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise TaskError(
                "invalid-task-options",
                f"`classes` of {owner} must be two names or more, each another one, but are {str(self.classes)[:200]}.",
            )


class ImageText(WithOptions[ImageTextOptions]):
    """Its examples are images with a class, or groups of pairs."""

    name: ClassVar[str] = "image-text"
    summary: ClassVar[str] = "Matches images with texts, by class names or captions, with a dual encoder such as CLIP."
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0),
        Metric(name="loss", higher_is_better=False, low=0.0),
        *(Metric(name=f"recall-{top}", higher_is_better=True, low=0.0, high=1.0) for top in TOPS[1:]),
        *(Metric(name=f"text-recall-{top}", higher_is_better=True, low=0.0, high=1.0) for top in TOPS),
    )
    options_type: ClassVar[type] = ImageTextOptions

    def __init__(self, options: ImageTextOptions | None = None) -> None:
        super().__init__(options)
        self._classes: list[TextInputs] = []
        """The texts of each data set with classes that was opened: [classes * templates, L]. Batches say which."""

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return not ARCHITECTURES.isdisjoint(architectures_of(checkpoints.config))

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return build_dual_encoder(checkpoints, self.name)

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return dual_encoder_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        shape, preprocessing = self._preprocessing(checkpoints)
        try:
            if is_pairs(path, self.options):
                return self._open_pairs(path, checkpoints, shape, preprocessing)
            return self._open_classes(path, checkpoints, shape.channels, preprocessing)
        except OSError as error:
            raise DataError(
                "invalid-data", f"`{error.filename or path}` must be readable, but is not ({error.strerror})."
            ) from error

    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        """Images whose classes are those of the option, or of the data set with classes that was opened before."""
        shape, preprocessing = self._preprocessing(checkpoints)
        images = open_unlabelled_images(path, shape, preprocessing, self.options)
        if self.options.classes is not None:
            number = self._with_texts(class_texts(path, self.options, self.options.classes), checkpoints)
        elif self._classes:
            number = 0
        else:
            raise DataError(
                "unknown-classes",
                f"The classes of `{path}`, which has no labels, must have names. Give the task option `classes`, or a "
                f"validation set with class folders.",
            )
        return ZeroShotImages(images, number, self._classes[number])

    def _preprocessing(self, checkpoints: CheckpointSet) -> tuple[ImageShape, Preprocessing]:
        channels = model_config.num_channels(model_config.checked(checkpoints))
        shape = ImageShape(channels=channels, num_classes=1, class_ids=None)
        source = TransformersSource(checkpoints=checkpoints)
        return shape, source.preprocessing(shape, self.options.overrides(channels))

    def _with_texts(self, classes: ClassTexts, checkpoints: CheckpointSet) -> int:
        """Their number in `_classes`."""
        self._classes.append(text_inputs(classes.filled(self.options.templates), checkpoints, self.name))
        return len(self._classes) - 1

    def _open_classes(
        self, path: Path, checkpoints: CheckpointSet, channels: int, preprocessing: Preprocessing
    ) -> DataSet:
        classes = class_texts(path, self.options, self.options.classes)
        shape = ImageShape(channels=channels, num_classes=len(classes.names), class_ids=classes.ids)
        images = open_images(path, shape, preprocessing, self.options)
        number = self._with_texts(classes, checkpoints)
        return ZeroShotImages(images, number, self._classes[number])

    def _open_pairs(
        self, path: Path, checkpoints: CheckpointSet, shape: ImageShape, preprocessing: Preprocessing
    ) -> DataSet:
        pairs = open_pairs(path, self.options, mode_for(shape, preprocessing))
        groups = groups_of(len(pairs.captions), self.options.candidates)
        texts = text_inputs(pairs.captions, checkpoints, self.name)
        images = DecodedImages(pairs.images, torch.arange(len(pairs.captions)), sized(preprocessing, pairs.images))
        left_over = len(pairs.captions) - groups.numel()
        remarks = [*pairs.remarks, *texts.remark("captions")]
        if left_over:
            remarks.append(f"{left_over} pairs of `{path}` are left out, so that all groups have {groups.shape[1]}.")
        return GroupedPairs(images, texts, groups, remarks)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._values(model, batch)[0].mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        losses, by_image, by_text = self._values(model, batch)
        recalls = {top: (by_image < top).to(torch.float32).mean(dim=1) for top in TOPS}
        return {
            "accuracy": recalls[1],
            "loss": losses,
            **{f"recall-{top}": recalls[top] for top in TOPS[1:]},
            **{f"text-recall-{top}": (by_text < top).to(torch.float32).mean(dim=1) for top in TOPS},
        }

    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        parts = self._class_logits(model, batch)
        total = torch.stack([mean_entropy(logits) * len(logits) for _, logits in parts]).sum()
        return total / len(batch["texts"])

    def _values(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, [B], and how many candidates come before the right ones: by image and by text, each [B, rows]."""
        if "texts" not in batch:
            pairs = _pair_logits(model, batch)
            return _pair_losses(pairs), _pair_ranks(pairs), _pair_ranks(pairs.transpose(1, 2))
        parts = self._class_logits(model, batch)
        labels = batch["labels"]
        order = torch.cat([positions for positions, _ in parts]).argsort()
        losses = [F.cross_entropy(logits, labels[positions], reduction="none") for positions, logits in parts]
        before = torch.cat([ranks(logits, labels[positions]) for positions, logits in parts])[order][:, None]
        return torch.cat(losses)[order], before, before

    def _class_logits(self, model: nn.Module, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Positions in the batch and their logits, float32 [some, classes]: a batch may be of several data sets."""
        images, scale = encoded(model, {"pixel_values": batch["pixel_values"]})
        parts = []
        for number in batch["texts"].unique().tolist():
            positions = (batch["texts"] == number).nonzero().view(-1)
            texts = self._classes[number].tensors
            features, _ = encoded(model, {name: each.to(images.device, torch.int64) for name, each in texts.items()})
            by_class = features.view(-1, len(self.options.templates), features.shape[1]).mean(dim=1)
            parts.append((positions, similarities(images[positions], F.normalize(by_class, dim=-1), scale)))
        return parts


class ZeroShotImages:
    """A data set of images with a class or without one, whose batches say which classes are meant."""

    def __init__(self, images: ArrayImages | DecodedImages | UnlabelledImages, number: int, texts: TextInputs) -> None:
        self._images = images
        self._number = number
        self.remarks = (*images.remarks, *texts.remark("texts of classes"))

    def __len__(self) -> int:
        return len(self._images)

    def keep(self, max_bytes: int) -> None:
        if not isinstance(self._images, ArrayImages):
            self._images.keep(max_bytes)

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        return {**self._images.batch(indices), "texts": torch.full((len(indices),), self._number)}


def _pair_logits(model: nn.Module, batch: Batch) -> Tensor:
    """float32 [B, images, texts] of each group."""
    groups, pairs = batch["input_ids"].shape[:2]
    texts = {name: each.flatten(0, 1) for name, each in batch.items() if name != "pixel_values"}
    images, scale = encoded(model, {"pixel_values": batch["pixel_values"].flatten(0, 1)})
    captions, _ = encoded(model, texts)
    return similarities(images.view(groups, pairs, -1), captions.view(groups, pairs, -1), scale)


def _pair_losses(logits: Tensor) -> Tensor:
    """CLIP's: the mean over both directions, float32 [B]."""
    own = logits.diagonal(dim1=1, dim2=2)
    return (logits.logsumexp(dim=2) + logits.logsumexp(dim=1) - 2 * own).mean(dim=1) / 2


def _pair_ranks(logits: Tensor) -> Tensor:
    """How many candidates come before its own for each row, int64 [B, pairs]."""
    groups, pairs = logits.shape[:2]
    own = torch.arange(pairs, device=logits.device).repeat(groups)
    return ranks(logits.flatten(0, 1), own).view(groups, pairs)
