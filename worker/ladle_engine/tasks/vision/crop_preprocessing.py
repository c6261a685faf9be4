"""Resize, crop, scale, normalise: what timm and torchvision do to an image before a model sees it, with PIL alone.

Bit for bit what their own transforms give for an image of PIL's: `tests/tasks/test_named_image_models.py` compares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ladle_engine.errors import TaskError
from ladle_engine.tasks.images.preprocessing import MAX_SIDE, PlainPreprocessing
from ladle_engine.tasks.images.processor import Overrides

Size = tuple[int, int]
"""Height and width."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
CROP_MODES = ("center", "squash", "border")
"""timm's: the shorter edge is resized, and the middle cut out; both edges are; the longer one is, the rest filled."""


@dataclass(frozen=True, kw_only=True)
class CropPreprocessing:
    """With `scale` the size before the crop: an image is resized to it as `crop_mode` says."""

    size: Size
    scale: Size
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_mode: str = "center"
    options: PlainPreprocessing = field(default_factory=PlainPreprocessing)
    """For floating arrays, which are ready: what the task's options ask for alone."""
    takes_any_mode: bool = False

    def of_image(self, image: Image.Image) -> Tensor:
        resized = image.resize(self._resized_size(image)[::-1], INTERPOLATIONS[self.interpolation])
        pixels = torch.from_numpy(np.array(self._cropped(resized)))
        channels_first = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        scaled = channels_first.to(torch.float32) / 255
        return (scaled - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)

    def of_array(self, images: Tensor) -> Tensor:
        return self.options.of_array(images)

    def _resized_size(self, image: Image.Image) -> Size:
        height, width = image.height, image.width
        if self.crop_mode == "squash":
            return self.scale
        if self.crop_mode == "center" and self.scale[0] == self.scale[1]:
            shorter = self.scale[0]
            longer = int(shorter * max(height, width) / min(height, width))
            size = (longer, shorter) if width <= height else (shorter, longer)
        else:
            choose = max if self.crop_mode == "border" else min
            ratio = choose(height / self.scale[0], width / self.scale[1])
            size = (max(round(height / ratio), 1), max(round(width / ratio), 1))
        if size[0] * size[1] > MAX_SIDE * MAX_SIDE:
            raise ValueError(
                f"it must not be so long and thin, because its shorter edge is resized, but has {width} x {height} "
                f"pixels"
            )
        return size

    def _cropped(self, image: Image.Image) -> Image.Image:
        top, left = _offset(image.height, self.size[0]), _offset(image.width, self.size[1])
        box = (left, top, left + self.size[1], top + self.size[0])
        if self.crop_mode != "border":
            # PIL fills with black what lies outside.
            return image.crop(box)
        fill = tuple(round(255 * value) for value in self.mean)
        canvas = Image.new(image.mode, self.size[::-1], fill if len(fill) > 1 else fill[0])
        canvas.paste(image, (-left, -top))
        return canvas


def with_overrides(preset: CropPreprocessing, overrides: Overrides) -> CropPreprocessing:
    """The task's options in place of the preset's values; another `image_size` is cut out of the same share."""
    size, scale, side = preset.size, preset.scale, overrides.image_size
    if side is not None:
        scale = (math.floor(scale[0] * side / size[0]), math.floor(scale[1] * side / size[1]))
        size = (side, side)
    if overrides.crop_pct is not None:
        scale = scale_of(size, overrides.crop_pct)
        if not 1 <= min(scale) <= max(scale) <= MAX_SIDE:
            raise TaskError(
                "invalid-task-options",
                f"`crop_pct` must be such that images are resized to at most {MAX_SIDE} pixels, but is "
                f"{overrides.crop_pct:g} for images of {size[0]} x {size[1]}.",
            )
    mean, std = overrides.mean or preset.mean, overrides.std or preset.std
    return replace(
        preset,
        size=size,
        scale=scale,
        interpolation=overrides.interpolation or preset.interpolation,
        mean=mean,
        std=std,
        options=PlainPreprocessing(
            size=None if side is None else (side, side),
            mean=mean if overrides.normalises else None,
            std=std if overrides.normalises else None,
        ),
    )


def scale_of(size: Size, crop_pct: float) -> Size:
    """To what an image is resized, so that `size` is this share of it; as timm rounds."""
    return (math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct))


def _offset(length: int, wanted: int) -> int:
    """Where a piece of `wanted` begins; below 0 where it is longer."""
    return -((wanted - length) // 2) if wanted > length else round((length - wanted) / 2)
