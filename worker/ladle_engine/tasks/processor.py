"""The image processor that lies beside the checkpoints, as transformers applies it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.model_config import parse_config
from ladle_engine.tasks.preprocessing import DEVIATIONS, MAX_SIDE, MEANS, PlainPreprocessing, all_within, is_number

GENERIC_PROCESSOR = "ViTImageProcessor"
"""Resizes, crops, rescales and normalises as its file says: where neither that nor the model's type names another."""

SIZES = ("size", "crop_size", "pad_size")


@dataclass(frozen=True, kw_only=True)
class ProcessorFile:
    """The values of a saved processor. Nothing that they name is ever imported, but classes of transformers itself."""

    path: Path
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """The task's options that stand in place of the processor's own values."""

    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def normalises(self) -> bool:
        return self.mean is not None or self.std is not None


def find_processor(checkpoints: CheckpointSet) -> ProcessorFile | None:
    """The saved processor: part of `processor_config.json`, where transformers 5 writes one, or a file of its own.

    Raises `TaskError` (model-mismatch) for a file that is no JSON object.
    """
    for name, part in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        path = next((path for path in checkpoints.side_files if path.name == name), None)
        if path is None:
            continue
        values = _read_object(path)
        if part is not None:
            values = values.get(part)
        if isinstance(values, dict):
            return ProcessorFile(path=path, values=values)
    return None


def _read_object(path: Path) -> Any:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError("model-mismatch", f"`{path}` must be a JSON file, but does not parse ({error}).") from error
    if not isinstance(parsed, dict):
        raise TaskError("model-mismatch", f"`{path}` must be a JSON object, but is a {type(parsed).__name__}.")
    return parsed


@dataclass(frozen=True, kw_only=True)
class FolderPreprocessing:
    """Applies one processor of transformers, image by image, and so gives what it gives for a batch."""

    processor: Any
    arguments: Mapping[str, Any]
    """The processor's own values that the task's options replace."""
    path: Path
    size: tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
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
            raise DataError(
                "invalid-data",
                f"An image must be at most {longest / edge:,.0f} times as long as wide, because `{self.path.name}` "
                f"resizes its shorter edge, but has {image.width} x {image.height} pixels.",
            )


def open_processor(
    file: ProcessorFile, checkpoints: CheckpointSet, channels: int, options: Overrides
) -> FolderPreprocessing:
    """The processor of `file`, with the task's options in place of its own values; tried on two small images.

    Raises `TaskError`: the file has a wrong value, or its processor does not give images of `channels`, or does not
    do what an option asks for.
    """
    refuse_absurd(file)
    processor = _build(file, checkpoints)
    mean, std = _normalisation(processor, file.path, channels, options)
    arguments: dict[str, Any] = {}
    if options.normalises:
        arguments = {"do_normalize": True, "image_mean": mean, "image_std": std}
        _refuse_without_effect(processor, file.path, channels, arguments)
    if options.image_size is not None:
        arguments |= _sizes(processor, file.path, channels, arguments, options.image_size)
    wide, high = _tried(processor, file.path, channels, arguments)
    side = options.image_size
    return FolderPreprocessing(
        processor=processor,
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


def _build(file: ProcessorFile, checkpoints: CheckpointSet) -> Any:
    """Named by the file, or else by the type of the model."""
    # transformers takes seconds to import, which a folder without a processor does not need.
    from transformers import CONFIG_MAPPING, AutoImageProcessor
    from transformers.image_processing_utils import BaseImageProcessor

    values = {name: value for name, value in file.values.items() if name != "auto_map"}
    config = None
    if not values.keys() & {"image_processor_type", "feature_extractor_type"}:
        model_type = (checkpoints.config or {}).get("model_type")
        if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
            config = parse_config(checkpoints)
        else:
            values = _as_generic(file.path, values)
    # A folder of its own: no other file of the checkpoints' decides what is loaded.
    with _translated(file.path), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values))
        processor = AutoImageProcessor.from_pretrained(
            folder, config=config, backend="pil", trust_remote_code=False, local_files_only=True
        )
        if not isinstance(processor, BaseImageProcessor):
            raise TypeError(f"{type(processor).__name__} is not an image processor")
    if list(processor.model_input_names) != ["pixel_values"]:
        raise TaskError(
            "model-mismatch",
            f"`{file.path}` must name a processor that gives `pixel_values` alone, but {type(processor).__name__} "
            f"gives {', '.join(processor.model_input_names)}.",
        )
    return processor


def _as_generic(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """For a model that is not one of transformers. Raises `TaskError` for a value that would go unused."""
    from transformers import ViTImageProcessorPil

    known = {*ViTImageProcessorPil.valid_kwargs.__annotations__, "processor_class"}
    if unknown := sorted(values.keys() - known):
        raise TaskError(
            "model-mismatch",
            f"`{path}` must name its `image_processor_type`, because {GENERIC_PROCESSOR}, which is taken otherwise, "
            f"has no `{unknown[0]}`.",
        )
    normalises = "image_mean" in values or "image_std" in values
    return {"do_normalize": normalises, **values, "image_processor_type": GENERIC_PROCESSOR}


def _normalisation(
    processor: Any, path: Path, channels: int, options: Overrides
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """The mean and standard deviation that will be used: each from the options or else from the processor."""
    if not (processor.do_normalize or options.normalises):
        return None, None
    if not processor.do_normalize and (options.mean is None or options.std is None):
        raise TaskError(
            "invalid-task-options",
            f"`mean` and `std` must be given together, because `{path}` does not normalise, but "
            f"`{'mean' if options.mean is None else 'std'}` is absent.",
        )
    return (
        options.mean or _per_channel(processor.image_mean, "image_mean", path, channels, MEANS),
        options.std or _per_channel(processor.image_std, "image_std", path, channels, DEVIATIONS),
    )


def _refuse_without_effect(processor: Any, path: Path, channels: int, arguments: Mapping[str, Any]) -> None:
    """Some processors never normalise, whatever their values say."""
    shifted = {**arguments, "image_mean": tuple(value + 1 for value in arguments["image_mean"])}
    wide, _ = _tried(processor, path, channels, arguments)
    if torch.equal(wide, _tried(processor, path, channels, shifted)[0]):
        raise TaskError(
            "invalid-task-options",
            f"`mean` and `std` must be absent, because {type(processor).__name__}, which `{path}` names, does not "
            f"use them.",
        )


def _sizes(
    processor: Any, path: Path, channels: int, arguments: Mapping[str, Any], image_size: int
) -> Mapping[str, Any]:
    """The arguments with which the processor gives images of `image_size`; as it resizes and crops now, if it can."""
    failure: TaskError | None = None
    for sizes in _sizes_to_try(processor, image_size):
        try:
            made = _tried(processor, path, channels, {**arguments, **sizes})
        except TaskError as error:
            failure = error
            continue
        if all(values.shape[1:] == (image_size, image_size) for values in made):
            return sizes
    raise TaskError(
        "invalid-task-options",
        f"`image_size` must be one that {type(processor).__name__}, which `{path}` names, can make, but is "
        f"{image_size}.",
    ) from failure


def _sizes_to_try(processor: Any, image_size: int) -> Iterator[Mapping[str, Any]]:
    square = {"height": image_size, "width": image_size}
    size, crop = dict(processor.size or {}), dict(processor.crop_size or {})
    if processor.do_center_crop and crop:
        # What the crop cuts away stays the same share of the image.
        scale = image_size / max(crop.values())
        scaled = {name: max(round(side * scale), 1) for name, side in size.items()}
        yield {"do_resize": True, "size": scaled or square, "crop_size": square}
    elif size.keys() == {"shortest_edge"}:
        yield {"do_resize": True, "size": {"shortest_edge": image_size}}
    yield {"do_resize": True, "size": square, "crop_size": square}
    yield {"do_resize": True, "size": {"shortest_edge": image_size}, "do_center_crop": True, "crop_size": square}


def _tried(processor: Any, path: Path, channels: int, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """What the processor makes of a wide and of a high image of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, channels), dtype=np.uint8)
    wide = Image.fromarray(noise if channels > 1 else noise[..., 0])
    with _translated(path):
        high = wide.transpose(Image.Transpose.ROTATE_90)
        made = (_applied(processor, wide, arguments), _applied(processor, high, arguments))
    for values in made:
        if values.ndim != 3 or values.shape[0] != channels:
            raise TaskError(
                "model-mismatch",
                f"`{path}` must give images of {channels} channels, as the model takes them, but "
                f"{type(processor).__name__} gives the shape {tuple(values.shape)}.",
            )
        if not bool(torch.isfinite(values).all()):
            raise TaskError("model-mismatch", f"`{path}` must give finite numbers, but gives NaN or infinite ones.")
    return made


def _applied(processor: Any, image: Image.Image, arguments: Mapping[str, Any]) -> Tensor:
    """[C, H, W]"""
    values: Tensor = processor(images=image, return_tensors="pt", **arguments)["pixel_values"][0]
    return values


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except Exception as error:
        # Wrong values fail wherever the processor first uses them: ZeroDivisionError, TypeError, KeyError ...
        raise TaskError(
            "model-mismatch",
            f"`{path}` must be a processor that transformers can apply to an image, but that fails "
            f"({type(error).__name__}: {str(error)[:300]}).",
        ) from error


def refuse_absurd(file: ProcessorFile) -> None:
    """Raises `TaskError` for numbers that would ask for any amount of memory, before anything is made of them."""

    def refuse(name: str, rule: str) -> TaskError:
        value = str(file.values[name])[:100]
        return TaskError("model-mismatch", f"`{name}` in `{file.path}` must be {rule}, but is {value}.")

    crop_pct = file.values.get("crop_pct")
    if crop_pct is not None and not (is_number(crop_pct) and crop_pct > 0):
        raise refuse("crop_pct", "a number above 0")
    for name, value in file.values.items():
        for number in _numbers_in(value):
            if name in SIZES and (not isinstance(number, int) or number < 1):
                raise refuse(name, "whole numbers of at least 1")
            if isinstance(number, int) and abs(number) > MAX_SIDE:
                raise refuse(name, f"at most {MAX_SIDE}")
            if name == "size" and crop_pct is not None and number / crop_pct > MAX_SIDE:
                raise refuse("crop_pct", f"large enough that `size` divided by it is at most {MAX_SIDE}")


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(item)
    elif is_number(value):
        yield value


def _per_channel(value: Any, name: str, path: Path, channels: int, bounds: tuple[float, float]) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * channels
    if len(values) != channels or not all_within(values, bounds):
        raise TaskError(
            "model-mismatch",
            f"`{name}` in `{path}` must have one number for each of {channels} channels, from {bounds[0]:g} to "
            f"{bounds[1]:g}, but is {value!r}. The task options `mean` and `std` stand in for it.",
        )
    return tuple(float(each) for each in values)
