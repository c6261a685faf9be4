"""Where an image classifier's architecture comes from: transformers, timm, torchvision, or model soups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from ladle_engine.tasks.images.preprocessing import Preprocessing
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.images.shape import ImageShape


class ModelSource(Protocol):
    """One folder's model. Its methods raise `TaskError`."""

    def build(self) -> nn.Module:
        """The architecture alone: no download, no code from the folder, and whatever weights."""
        ...

    def stored_names(self, model: nn.Module) -> Mapping[str, str | None]:
        """As `Task.stored_names`."""
        ...

    def shape(self) -> ImageShape:
        """Channels and classes."""
        ...

    def preprocessing(self, shape: ImageShape, overrides: Overrides) -> Preprocessing:
        """What the model was trained with, with the task's options in its place."""
        ...
