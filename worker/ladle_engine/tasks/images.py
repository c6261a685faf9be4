"""Image data sets: a folder of class folders, an `.npz`, or a safetensors file of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.storage.host_memory import free_host_bytes
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.tasks.class_folders import find_images, find_labels
from ladle_engine.tasks.image_arrays import as_images, as_labels, read_arrays
from ladle_engine.tasks.image_files import MAX_PIXELS, MODES, decode
from ladle_engine.tasks.image_shape import ImageShape
from ladle_engine.tasks.preprocessing import PlainPreprocessing, Preprocessing
from ladle_engine.tasks.processor import FolderPreprocessing

__all__ = ["ArrayImages", "DecodedImages", "ImageShape", "open_images"]

MAX_THREADS = 16
IMAGE_BYTES = 12 * MAX_PIXELS
"""Of the largest image, with what its conversions take."""


class ArrayImages:
    """Images and labels in memory that need next to no work: floating ones, or uint8 that are only scaled."""

    def __init__(
        self, images: Tensor, labels: Tensor, preprocessing: Preprocessing, remarks: Sequence[str] = ()
    ) -> None:
        self._images = images
        self._labels = labels
        self._preprocessing = preprocessing
        self.remarks = remarks

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        images = self._images[indices]
        floats = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
        return {"pixel_values": self._preprocessing.of_array(floats), "labels": self._labels[indices]}


class ImageSource(Protocol):
    def open(self, index: int) -> Image.Image: ...

    def name(self, index: int) -> str:
        """For messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    files: Sequence[Path]
    mode: str | None

    def open(self, index: int) -> Image.Image:
        return decode(self.files[index], self.mode)

    def name(self, index: int) -> str:
        return str(self.files[index])


@dataclass(frozen=True, kw_only=True)
class ImageArray:
    images: Tensor
    """uint8 [N, 1 or 3, H, W]"""
    path: Path

    def open(self, index: int) -> Image.Image:
        pixels = self.images[index]
        return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().numpy())

    def name(self, index: int) -> str:
        return f"image {index} of {self.path}"


class DecodedImages:
    """Images that are decoded and prepared when they are asked for, by several threads, and kept while there is room.

    What a batch holds does not depend on the threads, nor on what is kept.
    """

    def __init__(
        self, source: ImageSource, labels: Tensor, preprocessing: Preprocessing, remarks: Sequence[str] = ()
    ) -> None:
        self._source = source
        self._labels = labels
        self._preprocessing = preprocessing
        self._threads = ThreadPoolExecutor(num_threads(), thread_name_prefix="ladle-images")
        self._first: tuple[int, tuple[int, ...]] | None = None
        """An image, and the shape that it and so all others have."""
        self._kept: dict[int, Tensor] = {}
        self._room_bytes = 0
        self.remarks = remarks

    def __len__(self) -> int:
        return len(self._labels)

    def keep(self, max_bytes: int) -> None:
        """Images that are prepared from now on stay in memory, up to so many bytes."""
        self._room_bytes = max_bytes

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        wanted = indices.tolist()
        missing = [index for index in dict.fromkeys(wanted) if index not in self._kept]
        made = dict(zip(missing, self._threads.map(self._prepare, missing), strict=True))
        for index, image in made.items():
            self._check_shape(index, image)
            self._keep(index, image)
        images = [made[index] if index in made else self._kept[index] for index in wanted]
        return {"pixel_values": torch.stack(images), "labels": self._labels[indices]}

    def _prepare(self, index: int) -> Tensor:
        image = self._source.open(index)
        try:
            return self._preprocessing.of_image(image).contiguous()
        except MemoryError:
            raise
        except Exception as error:
            # Whatever a processor of transformers raises for an image that it is not made for.
            raise DataError(
                "invalid-data",
                f"`{self._source.name(index)}` must be an image that can be prepared for the model, but that fails "
                f"({type(error).__name__}: {str(error)[:300]}).",
            ) from error

    def _check_shape(self, index: int, image: Tensor) -> None:
        if self._first is None:
            self._first = index, tuple(image.shape)
        other, shape = self._first
        if tuple(image.shape) != shape:
            raise DataError(
                "invalid-data",
                f"All images must come out of the preprocessing with the same shape, but `{self._source.name(other)}` "
                f"has {shape} and `{self._source.name(index)}` has {tuple(image.shape)}. Give the task option "
                f"`image_size`.",
            )

    def _keep(self, index: int, image: Tensor) -> None:
        """The first to come stay: all are asked for equally often, so to put one in another's place gains nothing."""
        if image.nbytes <= self._room_bytes:
            self._room_bytes -= image.nbytes
            self._kept[index] = image


def num_threads() -> int:
    """This rank's share of the cores, and no more than half of its memory could be filled by."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    by_memory = free_host_bytes() // (2 * IMAGE_BYTES)
    return max(min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), MAX_THREADS, by_memory), 1)


def open_images(path: Path, shape: ImageShape, preprocessing: Preprocessing) -> ArrayImages | DecodedImages:
    """Raises `DataError`: missing, empty, of another kind or shape, not finite, or of unknown classes."""
    try:
        if is_folder(path):
            return _open_folder(path, shape, preprocessing)
        if not is_file(path):
            raise DataError("invalid-data", f"A data set must be a file or a folder, but there is none at `{path}`.")
        if path.suffix.lower() not in (".npz", ".safetensors"):
            raise DataError(
                "invalid-data",
                f"An image set must be a folder of class folders, an .npz or a .safetensors file, but is "
                f"`{path.name}`.",
            )
        return _open_arrays(path, shape, preprocessing)
    except OSError as error:
        raise DataError(
            "invalid-data", f"`{error.filename or path}` must be readable, but is not ({error.strerror})."
        ) from error


def _open_folder(path: Path, shape: ImageShape, preprocessing: Preprocessing) -> DecodedImages:
    refuse_channels(shape)
    folders = find_images(path)
    label_of, remark = find_labels(folders, shape)
    files = [file for images in folders.images.values() for file in images]
    labels = [label_of[name] for name, images in folders.images.items() for _ in images]
    remarks = filter(None, (remark, folders.remark()))
    return of_files(files, torch.tensor(labels), shape, preprocessing, tuple(remarks))


def refuse_channels(shape: ImageShape) -> None:
    """Raises `DataError` for a model that takes no image files."""
    if shape.channels not in MODES:
        raise DataError(
            "invalid-data",
            f"Image files must be for a model of 1 or 3 channels, but this one takes {shape.channels}. Give arrays in "
            f"an .npz or a .safetensors file.",
        )


def of_files(
    files: Sequence[Path], labels: Tensor, shape: ImageShape, preprocessing: Preprocessing, remarks: Sequence[str]
) -> DecodedImages:
    """Of one file or more."""
    mode = None if preprocessing.takes_any_mode else MODES[shape.channels]
    if isinstance(preprocessing, PlainPreprocessing) and preprocessing.size is None:
        preprocessing = replace(preprocessing, size=decode(files[0], mode).size[::-1])
    return DecodedImages(ImageFiles(files=files, mode=mode), labels, preprocessing, remarks)


def _open_arrays(path: Path, shape: ImageShape, preprocessing: Preprocessing) -> ArrayImages | DecodedImages:
    stored_images, stored_labels = read_arrays(path)
    images = as_images(stored_images, shape, path)
    return of_arrays(images, as_labels(stored_labels, len(images), shape, path), shape, preprocessing, path)


def of_arrays(
    images: Tensor, labels: Tensor, shape: ImageShape, preprocessing: Preprocessing, path: Path
) -> ArrayImages | DecodedImages:
    """Of what `as_images` and `as_labels` let through."""
    if images.is_floating_point():
        remark = _remark_on_floats(images, preprocessing, path)
        return ArrayImages(images, labels, preprocessing, () if remark is None else (remark,))
    plain = isinstance(preprocessing, PlainPreprocessing)
    if shape.channels not in MODES or (plain and preprocessing.size in (None, tuple(images.shape[2:]))):
        return ArrayImages(images, labels, preprocessing)
    return DecodedImages(ImageArray(images=images, path=path), labels, preprocessing)


def _remark_on_floats(images: Tensor, preprocessing: Preprocessing, path: Path) -> str | None:
    """Floating images have been through the processor; those that only look as if they had not are worth a word."""
    if not isinstance(preprocessing, FolderPreprocessing):
        return None
    least, most = (float(value) for value in images.aminmax())
    if preprocessing.mean is None or preprocessing.options.mean is not None or least < 0 or most > 1:
        return None
    return (
        f"The floating images of `{path}` go to the model as they are. They lie within 0 and 1, as if "
        f"`{preprocessing.path.name}` had not been applied to them: if so, store them as uint8, or give the task "
        f"options `mean` and `std`."
    )
