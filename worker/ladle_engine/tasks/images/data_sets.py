"""Image data sets: a folder of class folders, a table with images, an `.npz`, or a safetensors file of arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from ladle_engine.errors import DataError, TaskError
from ladle_engine.storage.host_memory import free_host_bytes
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.tasks.images.arrays import as_images, as_labels, read_arrays
from ladle_engine.tasks.images.class_folders import find_images, find_labels
from ladle_engine.tasks.images.files import MAX_PIXELS, MODES, decode
from ladle_engine.tasks.images.preprocessing import PlainPreprocessing, Preprocessing
from ladle_engine.tasks.images.processor import FolderPreprocessing
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.tables.columns import TableOptions
from ladle_engine.tasks.vision.image_table import is_table, open_labelled

__all__ = ["ArrayImages", "DecodedImages", "ImageShape", "open_images"]

NO_OPTIONS = TableOptions()
MAX_THREADS = 16
FETCHED = 64
"""Encoded images in memory."""
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
    def fetch(self, indices: Sequence[int]) -> Sequence[Any]:
        """What `open` needs of each image, read by one thread alone."""
        ...

    def open(self, fetched: Any) -> Image.Image:
        """The image, decoded; by several threads at a time."""
        ...

    def place(self, index: int) -> str:
        """For messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    files: Sequence[Path]
    mode: str | None

    def fetch(self, indices: Sequence[int]) -> Sequence[Path]:
        return [self.files[index] for index in indices]

    def open(self, fetched: Path) -> Image.Image:
        return decode(fetched, self.mode)

    def place(self, index: int) -> str:
        return f"`{self.files[index]}`"


@dataclass(frozen=True, kw_only=True)
class ImageArray:
    images: Tensor
    """uint8 [N, 1 or 3, H, W]"""
    path: Path

    def fetch(self, indices: Sequence[int]) -> Sequence[Tensor]:
        return [self.images[index] for index in indices]

    def open(self, fetched: Tensor) -> Image.Image:
        return Image.fromarray((fetched[0] if len(fetched) == 1 else fetched.permute(1, 2, 0)).contiguous().numpy())

    def place(self, index: int) -> str:
        return f"`image {index} of {self.path}`"


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
        made = dict(self._prepared(missing))
        for index, image in made.items():
            self._check_shape(index, image)
            self._keep(index, image)
        images = [made[index] if index in made else self._kept[index] for index in wanted]
        return {"pixel_values": torch.stack(images), "labels": self._labels[indices]}

    def _prepared(self, indices: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Some at a time, so that few encoded images lie in memory."""
        for start in range(0, len(indices), FETCHED):
            part = indices[start : start + FETCHED]
            yield from zip(part, self._threads.map(self._prepare, part, self._source.fetch(part)), strict=True)

    def _prepare(self, index: int, fetched: Any) -> Tensor:
        image = self._source.open(fetched)
        try:
            return self._preprocessing.of_image(image).contiguous()
        except MemoryError:
            raise
        except Exception as error:
            # Whatever a processor of transformers raises for an image that it is not made for.
            raise DataError(
                "invalid-data",
                f"{self._source.place(index)} must be an image that can be prepared for the model, but that fails "
                f"({type(error).__name__}: {str(error)[:300]}).",
            ) from error

    def _check_shape(self, index: int, image: Tensor) -> None:
        if self._first is None:
            self._first = index, tuple(image.shape)
        other, shape = self._first
        if tuple(image.shape) != shape:
            raise DataError(
                "invalid-data",
                f"All images must come out of the preprocessing with the same shape, but {self._source.place(other)} "
                f"has {shape} and {self._source.place(index)} has {tuple(image.shape)}. Give the task option "
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


def open_images(
    path: Path, shape: ImageShape, preprocessing: Preprocessing, options: TableOptions = NO_OPTIONS
) -> ArrayImages | DecodedImages:
    """Raises `DataError`: missing, empty, of another kind or shape, not finite, or of unknown classes."""
    try:
        if is_table(path):
            return _open_table(path, shape, preprocessing, options)
        _refuse_options_of_tables(options, path)
        if is_folder(path):
            return _open_folder(path, shape, preprocessing)
        if not is_file(path):
            raise DataError("invalid-data", f"A data set must be a file or a folder, but there is none at `{path}`.")
        if path.suffix.lower() not in (".npz", ".safetensors"):
            raise DataError(
                "invalid-data",
                f"An image set must be a folder of class folders, an .npz or a .safetensors file, or a table with "
                f"images (.parquet, .arrow, .tar, .jsonl, .csv), but is `{path.name}`.",
            )
        return _open_arrays(path, shape, preprocessing)
    except OSError as error:
        raise DataError(
            "invalid-data", f"`{error.filename or path}` must be readable, but is not ({error.strerror})."
        ) from error


def _open_folder(path: Path, shape: ImageShape, preprocessing: Preprocessing) -> DecodedImages:
    mode = mode_for(shape, preprocessing)
    folders = find_images(path)
    label_of, remark = find_labels(folders, shape)
    files = [file for images in folders.images.values() for file in images]
    labels = [label_of[name] for name, images in folders.images.items() for _ in images]
    remarks = filter(None, (remark, folders.remark()))
    return of_files(files, torch.tensor(labels), mode, preprocessing, tuple(remarks))


def _open_table(path: Path, shape: ImageShape, preprocessing: Preprocessing, options: TableOptions) -> DecodedImages:
    source, labels, remarks = open_labelled(path, shape, options, mode_for(shape, preprocessing))
    return DecodedImages(source, labels, sized(preprocessing, source), remarks)


def mode_for(shape: ImageShape, preprocessing: Preprocessing) -> str | None:
    """To what image files are converted; None where the preprocessing does it. Raises `DataError`."""
    if shape.channels not in MODES:
        raise DataError(
            "invalid-data",
            f"Image files must be for a model of 1 or 3 channels, but this one takes {shape.channels}. Give arrays in "
            f"an .npz or a .safetensors file.",
        )
    return None if preprocessing.takes_any_mode else MODES[shape.channels]


def sized(preprocessing: Preprocessing, source: ImageSource) -> Preprocessing:
    """With the size of the first image, where nothing else says which."""
    if isinstance(preprocessing, PlainPreprocessing) and preprocessing.size is None:
        (first,) = source.fetch([0])
        return replace(preprocessing, size=source.open(first).size[::-1])
    return preprocessing


def _refuse_options_of_tables(options: TableOptions, path: Path) -> None:
    for name in ("columns", "split", "limit"):
        if value := getattr(options, name):
            raise TaskError(
                "invalid-task-options",
                f"`{name}` must be absent for a data set that is no table, but is {value!r:.100} for `{path}`.",
            )


def of_files(
    files: Sequence[Path], labels: Tensor, mode: str | None, preprocessing: Preprocessing, remarks: Sequence[str]
) -> DecodedImages:
    """Of one file or more."""
    source = ImageFiles(files=files, mode=mode)
    return DecodedImages(source, labels, sized(preprocessing, source), remarks)


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
