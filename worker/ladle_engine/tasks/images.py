"""Image data sets: a folder of class folders, an `.npz`, or a safetensors file of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ladle_engine.checkpoints.safetensors_file import read_header
from ladle_engine.errors import CheckpointError, DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
DECODERS = ("PNG", "JPEG", "BMP", "WEBP")
"""No other decoder looks at a stranger's file: PIL would go by its contents, and start Ghostscript for some."""
IMAGE_KEYS = ("images", "x", "pixel_values", "data")
LABEL_KEYS = ("labels", "y", "targets", "label")
MAX_PIXELS = 64_000_000
"""A larger image is refused before it is decoded: its file may be a bomb."""
MAX_ARRAY_BYTES = 64 << 30


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What the model takes."""

    channels: int
    num_classes: int
    class_ids: Mapping[str, int] | None
    """Class name -> label, where the model's config says."""


Transform = Callable[[Tensor], Tensor]
"""float32 [B, C, H, W] in 0..1 for uint8 images, as they are for float ones -> what the model takes."""


class ArrayImages:
    """Images and labels in memory."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Transform) -> None:
        self._images = images
        self._labels = labels
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        images = self._images[indices]
        floats = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
        return {"pixel_values": self._transform(floats), "labels": self._labels[indices]}


class FolderImages:
    """Image files, decoded when they are asked for."""

    def __init__(
        self, files: Sequence[Path], labels: Tensor, channels: int, size: tuple[int, int], transform: Transform
    ) -> None:
        self._files = files
        self._labels = labels
        self._mode = "L" if channels == 1 else "RGB"
        self._size = size
        self._transform = transform

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        images = torch.stack([self._decode(self._files[index]) for index in indices.tolist()])
        return {"pixel_values": self._transform(images.to(torch.float32) / 255), "labels": self._labels[indices]}

    def _decode(self, path: Path) -> Tensor:
        """uint8 [C, H, W]"""
        height, width = self._size
        try:
            with Image.open(path, formats=DECODERS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        "invalid-data",
                        f"An image must have at most {MAX_PIXELS:,} pixels, but `{path}` has {image.width} x "
                        f"{image.height}.",
                    )
                image.draft(self._mode, (width, height))
                pixels = np.array(image.convert(self._mode).resize((width, height), Image.Resampling.BILINEAR))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError("invalid-data", f"`{path}` must be an image, but does not decode ({error}).") from error
        tensor = torch.from_numpy(pixels)
        return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def open_images(
    path: Path, shape: ImageShape, size: tuple[int, int] | None, transform: Transform
) -> ArrayImages | FolderImages:
    """Raises `DataError`: missing, empty, of another kind or shape, not finite, or of unknown classes."""
    if path.is_dir():
        return _open_folder(path, shape, size, transform)
    if not path.is_file():
        raise DataError("invalid-data", f"A data set must be a file or a folder, but there is none at `{path}`.")
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(
            "invalid-data",
            f"An image set must be a folder of class folders, an .npz or a .safetensors file, but is `{path.name}`.",
        )
    arrays = _load_npz(path) if path.suffix == ".npz" else _load_safetensors(path)
    images, labels = _pick(arrays, IMAGE_KEYS, path), _pick(arrays, LABEL_KEYS, path)
    return ArrayImages(_as_images(images, shape, path), _as_labels(labels, len(images), shape, path), transform)


def _load_npz(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
        if declared > MAX_ARRAY_BYTES:
            raise DataError(
                "invalid-data", f"`{path}` must unpack to at most {MAX_ARRAY_BYTES:,} bytes, but declares {declared:,}."
            )
        # A pickled array could carry code: it is refused, not read.
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # What a damaged archive raises depends on where it is damaged: zlib.error, NotImplementedError and more.
        raise DataError(
            "invalid-data", f"`{path}` must be an .npz of plain arrays, but does not read ({error})."
        ) from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        read_header(path)
        return load_file(path)
    except (CheckpointError, SafetensorError) as error:
        raise DataError("invalid-data", f"`{path}` must be a safetensors file, but does not read ({error}).") from error


def _pick(arrays: Mapping[str, Tensor], keys: Sequence[str], path: Path) -> Tensor:
    for key in keys:
        if key in arrays:
            return arrays[key]
    raise DataError(
        "invalid-data",
        f"`{path.name}` must hold an array named {' or '.join(f'`{key}`' for key in keys)}, but holds "
        f"{', '.join(f'`{name}`' for name in arrays) or 'none'}.",
    )


def _as_images(images: Tensor, shape: ImageShape, path: Path) -> Tensor:
    """[N, C, H, W] from [N, H, W], [N, H, W, C] or [N, C, H, W]."""
    given = tuple(images.shape)
    if len(images) == 0:
        raise DataError("empty-data", f"An image set must hold examples, but `{path.name}` holds none.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise DataError(
            "invalid-data", f"Images must be uint8 or floating, but in `{path.name}` they are {images.dtype}."
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] != shape.channels and images.shape[3] == shape.channels:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] != shape.channels:
        raise DataError(
            "invalid-data",
            f"Images must have the shape N x H x W, N x H x W x C or N x C x H x W with C = {shape.channels}, as the "
            f"model takes them, but in `{path.name}` they have {given}. Is this the set of another task?",
        )
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        raise DataError("invalid-data", f"Images must be finite, but `{path.name}` holds NaN or infinite values.")
    return images


def _as_labels(labels: Tensor, num_images: int, shape: ImageShape, path: Path) -> Tensor:
    """int64 [N]"""
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1 or len(labels) != num_images:
        raise DataError(
            "invalid-data",
            f"Labels must be {num_images} whole numbers, one an image, but in `{path.name}` they are {labels.dtype} of "
            f"shape {tuple(labels.shape)}.",
        )
    labels = labels.to(torch.int64)
    unknown = sorted({label for label in labels.tolist() if not 0 <= label < shape.num_classes})
    if unknown:
        raise DataError(
            "unknown-classes",
            f"Labels must be from 0 to {shape.num_classes - 1}, the model's classes, but `{path.name}` has "
            f"{', '.join(str(label) for label in unknown[:10])}.",
        )
    return labels


def _open_folder(path: Path, shape: ImageShape, size: tuple[int, int] | None, transform: Transform) -> FolderImages:
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    ids = _class_ids(classes, shape, path)
    files: list[Path] = []
    labels: list[int] = []
    for name in classes:
        for file in sorted((path / name).iterdir()):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                if not file.resolve().is_relative_to(path.resolve()):
                    raise DataError(
                        "path-not-allowed", f"Images must lie inside `{path}`, but `{file}` leads out of it."
                    )
                files.append(file)
                labels.append(ids[name])
    if not files:
        raise DataError(
            "empty-data",
            f"An image folder must hold one sub-folder a class with {', '.join(IMAGE_SUFFIXES)} files, but `{path}` "
            f"holds {len(classes)} sub-folders and no image in them.",
        )
    return FolderImages(files, torch.tensor(labels), shape.channels, size or _first_size(files[0]), transform)


def _class_ids(classes: Sequence[str], shape: ImageShape, path: Path) -> Mapping[str, int]:
    """By the config's names where it has any; else in alphabetical order, which is what training loaders do."""
    names = shape.class_ids
    if names is not None and all(name in names for name in classes):
        return names
    placeholder = names is None or all(name == f"LABEL_{label}" for name, label in names.items())
    if not placeholder:
        assert names is not None
        unknown = [name for name in classes if name not in names]
        raise DataError(
            "unknown-classes",
            f"Class folders must be named as in the model's config ({', '.join(list(names)[:10])}), but `{path}` has "
            f"{', '.join(f'`{name}`' for name in unknown[:10])}.",
        )
    if all(name.isdigit() and int(name) < shape.num_classes for name in classes):
        return {name: int(name) for name in classes}
    if len(classes) != shape.num_classes:
        raise DataError(
            "unknown-classes",
            f"There must be one class folder for each of the model's {shape.num_classes} classes, but `{path}` has "
            f"{len(classes)}: {', '.join(classes[:10])}.",
        )
    return {name: label for label, name in enumerate(classes)}


def _first_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=DECODERS) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise DataError("invalid-data", f"`{path}` must be an image, but does not decode ({error}).") from error
