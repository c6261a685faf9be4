"""What happens to images before the model sees them: the steps of the folder's own processor, or a plain resize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MAX_SIDE = 4096
"""Pixels. Larger inputs than any model takes are refused: a stranger's file must not make us fill the memory."""


MEANS = (-1e6, 1e6)
DEVIATIONS = (1e-6, 1e6)
"""What images can be normalised with in float32."""


def all_within(values: Sequence[Any], bounds: tuple[float, float]) -> bool:
    return all(is_number(value) and bounds[0] <= value <= bounds[1] for value in values)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Preprocessing(Protocol):
    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what comes out; None where they depend on the image."""
        ...

    @property
    def takes_any_mode(self) -> bool:
        """Whether it brings an image to the model's channels itself, transparency included."""
        ...

    def of_image(self, image: Image.Image) -> Tensor:
        """What the model takes, float32 [C, H, W]."""
        ...

    def of_array(self, images: Tensor) -> Tensor:
        """What the model takes, float32 [B, C, H, W], from floating images."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlainPreprocessing:
    """Resizes, scales uint8 to 0..1 and, with `mean` and `std`, normalises."""

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    takes_any_mode: bool = False

    def of_image(self, image: Image.Image) -> Tensor:
        if self.size is not None:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        channels_first = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return self._normalised(channels_first.to(torch.float32) / 255)

    def of_array(self, images: Tensor) -> Tensor:
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        return self._normalised(images)

    def _normalised(self, images: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return images
        return (images - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)
