"""Arrays of images and labels in an `.npz` or a safetensors file: bounded before memory is taken, then checked."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from numpy.lib import format as npy
from torch import Tensor

from ladle_engine.checkpoints.safetensors_file import stored_tensors
from ladle_engine.checkpoints.types import INTEGER_DTYPES
from ladle_engine.errors import CheckpointError, DataError, EngineError
from ladle_engine.storage.boundary import status
from ladle_engine.storage.host_memory import free_host_bytes
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.input_paths import open_regular
from ladle_engine.storage.zip_members import refuse_unusual
from ladle_engine.tasks.images.shape import ImageShape

IMAGE_KEYS = ("images", "x", "pixel_values", "data")
LABEL_KEYS = ("labels", "y", "targets", "label")
IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
LABEL_DTYPES = frozenset(INTEGER_DTYPES) - {torch.bool}
MEMORY_SHARE = 0.5
"""Of the memory that is free, at most, goes into the arrays of one data set."""
MAX_RATIO = 100
"""How many times as large as its file an `.npz` may be, if it is not small: real images do not shrink that much."""
SMALL_BYTES = 256 << 20
MAX_READ_BYTES = 1 << 20
"""Of an `.npz`, at once. Its table of contents is read whole."""
CHECKED_ELEMENTS = 1 << 24


def read_arrays(path: Path) -> tuple[Tensor, Tensor]:
    """Images and labels as they are stored. Raises `DataError`, and reads nothing else."""
    images, labels = _read(path, (IMAGE_KEYS, LABEL_KEYS))
    return images, labels


def read_images(path: Path) -> Tensor:
    """The images alone, whether or not there are labels. Raises the same."""
    (images,) = _read(path, (IMAGE_KEYS,))
    return images


def _read(path: Path, wanted: Sequence[Sequence[str]]) -> list[Tensor]:
    """An array for each list of the names that it may have."""
    read = _read_npz if path.suffix.lower() == ".npz" else _read_safetensors
    return read(path, wanted)


class _BoundedReads(io.FileIO):
    """A file that refuses to be read in large pieces, as a table of contents of a million names would be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = MAX_READ_BYTES
        if size > MAX_READ_BYTES:
            raise ValueError(f"its table of contents has {size:,} bytes, of {MAX_READ_BYTES:,} at most")
        return super().read(size) or b""


def _read_npz(path: Path, wanted: Sequence[Sequence[str]]) -> list[Tensor]:
    try:
        with _BoundedReads(open_regular(path)) as file, zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            names = [members[_pick(members, keys, path)] for keys in wanted]
            _refuse_large(path, sum(_check_header(archive, name) for name in names))
            return [_read_member(archive, name) for name in names]
    except (EngineError, MemoryError):
        raise
    except Exception as error:
        # What a damaged archive raises depends on where it is damaged: zlib.error, NotImplementedError and more.
        raise DataError(
            "invalid-data", f"`{path}` must be an .npz of plain arrays, but does not read ({error})."
        ) from error


def _check_header(archive: zipfile.ZipFile, name: str) -> int:
    """How many bytes the array has: numpy takes as much memory as the header says, before it reads anything else."""
    refuse_unusual(archive.getinfo(name))
    with archive.open(name) as member:
        version = npy.read_magic(member)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(member)
        stored = archive.getinfo(name).file_size - member.tell()
    if dtype.hasobject:
        # It could carry code.
        raise ValueError(f"`{name}` holds pickled objects")
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != stored:
        raise ValueError(f"`{name}` has the shape {shape}, so {num_bytes:,} bytes, but holds {stored:,}")
    return num_bytes


def _read_member(archive: zipfile.ZipFile, name: str) -> Tensor:
    with archive.open(name) as member:
        return torch.from_numpy(npy.read_array(member, allow_pickle=False))


def _read_safetensors(path: Path, wanted: Sequence[Sequence[str]]) -> list[Tensor]:
    try:
        with InputFile(path) as file:
            stored = stored_tensors(file).tensors
            arrays = [stored[_pick(stored, keys, path)] for keys in wanted]
            _refuse_large(path, sum(each.info.numel * each.info.dtype.itemsize for each in arrays))
            return [each.dense(file) for each in arrays]
    except CheckpointError as error:
        raise DataError("invalid-data", f"`{path}` must be a safetensors file, but does not read ({error}).") from error


def _pick(names: Collection[str], keys: Sequence[str], path: Path) -> str:
    for key in keys:
        if key in names:
            return key
    raise DataError(
        "invalid-data",
        f"`{path.name}` must hold an array named {' or '.join(f'`{key}`' for key in keys)}, but holds "
        f"{', '.join(f'`{name}`' for name in list(names)[:10]) or 'none'}.",
    )


def _refuse_large(path: Path, num_bytes: int) -> None:
    file_bytes = status(path).st_size
    if num_bytes > max(SMALL_BYTES, MAX_RATIO * file_bytes):
        raise DataError(
            "invalid-data",
            f"`{path}` must unpack to at most {MAX_RATIO} times its own {file_bytes:,} bytes, but declares "
            f"{num_bytes:,}.",
        )
    most = int(MEMORY_SHARE * free_host_bytes())
    if num_bytes > most:
        raise DataError(
            "invalid-data",
            f"`{path}` must have arrays of at most {most:,} bytes, {MEMORY_SHARE:.0%} of the memory that is free, but "
            f"has {num_bytes:,}. A folder of image files is read piece by piece.",
        )


def as_images(images: Tensor, shape: ImageShape, path: Path) -> Tensor:
    """uint8 or floating [N, C, H, W] from [N, H, W], [N, H, W, C] or [N, C, H, W]."""
    given = tuple(images.shape)
    if images.dtype not in IMAGE_DTYPES:
        raise DataError(
            "invalid-data",
            f"Images must be uint8 or floating numbers of at least 16 bits, but in `{path.name}` they are "
            f"{images.dtype}.",
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
    if len(images) == 0:
        raise DataError("empty-data", f"An image set must hold examples, but `{path.name}` holds none.")
    if min(images.shape[2:]) < 1:
        raise DataError(
            "invalid-data",
            f"Images must have a height and a width of at least 1, but in `{path.name}` their shape is {given}.",
        )
    if images.is_floating_point() and not _is_finite(images):
        raise DataError("invalid-data", f"Images must be finite, but `{path.name}` holds NaN or infinite values.")
    return images


def _is_finite(images: Tensor) -> bool:
    """Piece by piece: a mask of everything would be another large array."""
    step = max(CHECKED_ELEMENTS // images[0].numel(), 1)
    return all(bool(torch.isfinite(part).all()) for part in images.split(step))


def as_labels(labels: Tensor, num_images: int, shape: ImageShape, path: Path) -> Tensor:
    """int64 [N]"""
    if labels.dtype not in LABEL_DTYPES or labels.ndim != 1 or len(labels) != num_images:
        raise DataError(
            "invalid-data",
            f"Labels must be {num_images} whole numbers, one per image, but in `{path.name}` they are {labels.dtype} "
            f"of shape {tuple(labels.shape)}.",
        )
    labels = labels.to(torch.int64)
    unknown = labels[(labels < 0) | (labels >= shape.num_classes)].unique().tolist()
    if unknown:
        raise DataError(
            "unknown-classes",
            f"Labels must be from 0 to {shape.num_classes - 1}, the model's classes, but `{path.name}` has "
            f"{', '.join(str(label) for label in unknown[:10])}.",
        )
    return labels
