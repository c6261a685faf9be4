"""The files of model soups (mlfoundations/model-soups, wise-ft): CLIP's image encoder and a head, without a config.

`utils.ModelWrapper` there holds the whole CLIP model as `model`, but its text transformer, and a linear layer on
normalised features as `classification_head`. What is left of the text part is not used, and the result has it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isqrt

from torch import nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.vision.clip_vit import HEAD_WIDTH, ClipVit, SoupClassifier
from ladle_engine.tasks.vision.crop_preprocessing import CropPreprocessing, with_overrides

FIRST = "visual.conv1.weight"
HEAD = "classification_head.weight"
TEXT_PART = re.compile(r"(transformer|token_embedding|ln_final)\.|(text_projection|positional_embedding|logit_\w+)$")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def is_soup(checkpoints: CheckpointSet) -> bool:
    """By the names of the tensors alone."""
    return HEAD in checkpoints.tensors and any(name.endswith(FIRST) for name in checkpoints.tensors)


@dataclass(frozen=True, kw_only=True)
class SoupSource:
    checkpoints: CheckpointSet
    activation: str

    def build(self) -> nn.Module:
        width, _, patch, other = self._shape_of("conv1.weight", 4)
        tokens = self._shape_of("positional_embedding", 2)[0]
        if patch != other or isqrt(tokens - 1) ** 2 != tokens - 1:
            raise self._refused(f"patches of {patch} x {other} pixels and {tokens} positions")
        if width % HEAD_WIDTH:
            raise self._refused(f"a width of {width}, which is not a multiple of {HEAD_WIDTH}")
        features = self._shape_of("proj", 2)[1]
        classes, head_width = self._head()
        if head_width != features:
            raise self._refused(f"{features} features, of which `{HEAD}` takes {head_width}")
        visual = ClipVit(
            patch=patch,
            tokens=tokens,
            width=width,
            depth=self._depth(),
            hidden=self._shape_of("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            features=features,
            activation=self.activation,
        )
        return SoupClassifier(visual, features, classes, bias="classification_head.bias" in self.checkpoints.tensors)

    def stored_names(self, model: nn.Module) -> Mapping[str, str | None]:
        own = model.state_dict()
        visual = {name: self._prefix + name for name in own if name.startswith("visual.")}
        unused = [
            name
            for name in self.checkpoints.tensors
            if name.startswith(self._prefix) and TEXT_PART.match(name.removeprefix(self._prefix))
        ]
        return visual | {name: name for name in unused}

    def shape(self) -> ImageShape:
        return ImageShape(channels=3, num_classes=self._head()[0], class_ids=None)

    def preprocessing(self, shape: ImageShape, overrides: Overrides) -> CropPreprocessing:
        """CLIP's own."""
        patch = self._shape_of("conv1.weight", 4)[2]
        side = isqrt(self._shape_of("positional_embedding", 2)[0] - 1) * patch
        preset = CropPreprocessing(size=(side, side), scale=(side, side), interpolation="bicubic", mean=MEAN, std=STD)
        return with_overrides(preset, overrides)

    @cached_property
    def _prefix(self) -> str:
        """`model.` in model soups, `image_encoder.model.` in wise-ft."""
        name = next(name for name in self.checkpoints.tensors if name.endswith(FIRST))
        return name.removesuffix(FIRST)

    def _depth(self) -> int:
        beginning = f"{self._prefix}visual.transformer.resblocks."
        names = (name for name in self.checkpoints.tensors if name.startswith(beginning))
        return len({name.removeprefix(beginning).partition(".")[0] for name in names})

    def _head(self) -> tuple[int, int]:
        shape = self.checkpoints.tensors[HEAD].shape
        if len(shape) != 2:
            raise self._refused(f"`{HEAD}` of shape {shape}")
        return shape[0], shape[1]

    def _shape_of(self, name: str, dimensions: int) -> tuple[int, ...]:
        info = self.checkpoints.tensors.get(f"{self._prefix}visual.{name}")
        if info is None or len(info.shape) != dimensions or min(info.shape) < 1:
            found = "no such tensor" if info is None else f"it with shape {info.shape}"
            raise self._refused(f"{found} as `{self._prefix}visual.{name}`")
        return info.shape

    def _refused(self, found: str) -> TaskError:
        return TaskError(
            "model-mismatch",
            f"`{self._prefix}visual` and `classification_head` must be a vision transformer of CLIP with a linear "
            f"head, as model soups have them, but the checkpoints have {found}.",
        )
