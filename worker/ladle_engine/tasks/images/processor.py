"""Images as the processor that lies beside the checkpoints makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks.images.preprocessing import DEVIATIONS, MAX_SIDE, MEANS, PlainPreprocessing, all_within
from ladle_engine.tasks.images.processor_file import ProcessorFile, build_processor, translated

Arguments = Mapping[str, Any]
"""Values of a processor's that stand in for its own."""
Channels = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """The task's options that stand in for the processor's own values."""

    image_size: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    crop_pct: float | None = None
    interpolation: str | None = None

    def refuse_cropping(self) -> None:
        """Where a processor or nothing at all says how images are resized and cropped. Raises `TaskError`."""
        for name in ("crop_pct", "interpolation"):
            if (value := getattr(self, name)) is not None:
                raise TaskError(
                    "invalid-task-options",
                    f"`{name}` must be absent, because it is for models of timm, torchvision and model soups alone, "
                    f"but is {value!r}. For a model of transformers, change its `preprocessor_config.json`.",
                )

    @property
    def normalises(self) -> bool:
        return self.mean is not None or self.std is not None


@dataclass(frozen=True, kw_only=True)
class FolderPreprocessing:
    """Applies one processor of transformers, image by image, and so gives what it gives for a batch."""

    processor: Any
    arguments: Arguments
    path: Path
    size: tuple[int, int] | None
    mean: Channels | None
    std: Channels | None
    options: PlainPreprocessing
    """For floating arrays, which have been through a processor already: what the task's options ask for alone."""

    @property
    def takes_any_mode(self) -> bool:
        return bool(self.processor.do_convert_rgb)

    def of_image(self, image: Image.Image) -> Tensor:
        self._refuse_too_long(image)
        return _applied(self.processor, image, self.arguments).to(torch.float32)

    def of_array(self, images: Tensor) -> Tensor:
        return self.options.of_array(images)

    def _refuse_too_long(self, image: Image.Image) -> None:
        """Enlarging the shorter edge of a very thin image would fill any memory."""
        size = dict(self.arguments.get("size", self.processor.size) or {})
        if "shortest_edge" not in size or "longest_edge" in size:
            return
        edge = size["shortest_edge"] / min(getattr(self.processor, "crop_pct", None) or 1, 1)
        longest = MAX_SIDE * MAX_SIDE / edge
        if max(image.size) / min(image.size) * edge > longest:
            raise ValueError(
                f"it must be at most {longest / edge:,.0f} times as long as wide, because its shorter edge is resized, "
                f"but has {image.width} x {image.height} pixels"
            )


def open_processor(
    file: ProcessorFile, checkpoints: CheckpointSet, channels: int, options: Overrides
) -> FolderPreprocessing:
    """The processor of `file`, with the task's options in place of its own values; tried on two small images.

    Raises `TaskError`: the file has a wrong value, or its processor does not give images of `channels`, or does not
    do what an option asks for.
    """
    trial = _Trial(processor=build_processor(file, checkpoints), path=file.path, channels=channels)
    mean, std = trial.normalisation(options)
    arguments: dict[str, Any] = {}
    if options.normalises:
        arguments = {"do_normalize": True, "image_mean": mean, "image_std": std}
        trial.refuse_without_effect(arguments)
    if options.image_size is not None:
        arguments |= trial.sizes(arguments, options.image_size)
    wide, high = trial.run(arguments)
    side = options.image_size
    return FolderPreprocessing(
        processor=trial.processor,
        arguments=arguments,
        path=file.path,
        size=(wide.shape[1], wide.shape[2]) if wide.shape == high.shape else None,
        mean=mean,
        std=std,
        options=PlainPreprocessing(
            size=None if side is None else (side, side),
            mean=mean if options.normalises else None,
            std=std if options.normalises else None,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A processor, and what it makes of two small images."""

    processor: Any
    path: Path
    channels: int

    def run(self, arguments: Arguments) -> tuple[Tensor, Tensor]:
        """What it makes of a wide and of a high image of noise. Raises `TaskError` where that is of no use."""
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, self.channels), dtype=np.uint8)
        wide = Image.fromarray(noise if self.channels > 1 else noise[..., 0])
        with translated(self.path):
            high = wide.transpose(Image.Transpose.ROTATE_90)
            made = _applied(self.processor, wide, arguments), _applied(self.processor, high, arguments)
        for values in made:
            if values.ndim != 3 or values.shape[0] != self.channels:
                raise TaskError(
                    "model-mismatch",
                    f"`{self.path}` must give images of {self.channels} channels, as the model takes them, but "
                    f"{self._name} gives the shape {tuple(values.shape)}.",
                )
            if not bool(torch.isfinite(values).all()):
                raise TaskError(
                    "model-mismatch", f"`{self.path}` must give finite numbers, but gives NaN or infinite ones."
                )
        return made

    def normalisation(self, options: Overrides) -> tuple[Channels, Channels] | tuple[None, None]:
        """The mean and standard deviation that will be used: each from the options or else from the processor."""
        if not (self.processor.do_normalize or options.normalises):
            return None, None
        if not self.processor.do_normalize and (options.mean is None or options.std is None):
            raise TaskError(
                "invalid-task-options",
                f"`mean` and `std` must be given together, because `{self.path}` does not normalise, but "
                f"`{'mean' if options.mean is None else 'std'}` is absent.",
            )
        return (
            options.mean or self._per_channel("image_mean", MEANS),
            options.std or self._per_channel("image_std", DEVIATIONS),
        )

    def refuse_without_effect(self, arguments: Arguments) -> None:
        """Some processors never normalise, whatever their values say."""
        shifted = {**arguments, "image_mean": tuple(value + 1 for value in arguments["image_mean"])}
        if torch.equal(self.run(arguments)[0], self.run(shifted)[0]):
            raise TaskError(
                "invalid-task-options",
                f"`mean` and `std` must be absent, because {self._name}, which `{self.path}` names, does not use them.",
            )

    def sizes(self, arguments: Arguments, image_size: int) -> Arguments:
        """With which the processor gives images of `image_size`; as it resizes and crops now, if it can."""
        failure: TaskError | None = None
        for sizes in self._sizes_to_try(image_size):
            try:
                made = self.run({**arguments, **sizes})
            except TaskError as error:
                failure = error
                continue
            if all(values.shape[1:] == (image_size, image_size) for values in made):
                return sizes
        raise TaskError(
            "invalid-task-options",
            f"`image_size` must be one that {self._name}, which `{self.path}` names, can make, but is {image_size}.",
        ) from failure

    def _sizes_to_try(self, image_size: int) -> Iterator[Arguments]:
        square = {"height": image_size, "width": image_size}
        size, crop = dict(self.processor.size or {}), dict(self.processor.crop_size or {})
        if self.processor.do_center_crop and crop:
            # What the crop cuts away stays the same share of the image.
            scale = image_size / max(crop.values())
            scaled = {name: max(round(side * scale), 1) for name, side in size.items()}
            yield {"do_resize": True, "size": scaled or square, "crop_size": square}
        elif size.keys() == {"shortest_edge"}:
            yield {"do_resize": True, "size": {"shortest_edge": image_size}}
        yield {"do_resize": True, "size": square, "crop_size": square}
        yield {"do_resize": True, "size": {"shortest_edge": image_size}, "do_center_crop": True, "crop_size": square}

    def _per_channel(self, name: str, bounds: tuple[float, float]) -> Channels:
        value = getattr(self.processor, name)
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * self.channels
        if len(values) != self.channels or not all_within(values, bounds):
            raise TaskError(
                "model-mismatch",
                f"`{name}` in `{self.path}` must have one number for each of {self.channels} channels, from "
                f"{bounds[0]:g} to {bounds[1]:g}, but is {value!r}. The task options `mean` and `std` stand in for it.",
            )
        return tuple(float(each) for each in values)

    @property
    def _name(self) -> str:
        return type(self.processor).__name__


def _applied(processor: Any, image: Image.Image, arguments: Arguments) -> Tensor:
    """[C, H, W]"""
    values: Tensor = processor(images=image, return_tensors="pt", **arguments)["pixel_values"][0]
    return values
