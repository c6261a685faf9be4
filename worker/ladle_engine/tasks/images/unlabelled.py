"""Images without labels, to train by the entropy of predictions. Labels that are there are not read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.images.arrays import as_images, read_images
from ladle_engine.tasks.images.class_folders import find_unlabelled
from ladle_engine.tasks.images.data_sets import (
    NO_OPTIONS,
    ArrayImages,
    DecodedImages,
    mode_for,
    of_arrays,
    of_files,
    sized,
)
from ladle_engine.tasks.images.preprocessing import Preprocessing
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.tables import open_table
from ladle_engine.tasks.tables.columns import TableOptions
from ladle_engine.tasks.vision.image_table import is_table, open_images_of


class UnlabelledImages:
    """The images of a data set whose labels stand for nothing."""

    def __init__(self, images: ArrayImages | DecodedImages) -> None:
        self._images = images

    @property
    def remarks(self) -> Sequence[str]:
        return self._images.remarks

    def keep(self, max_bytes: int) -> None:
        if isinstance(self._images, DecodedImages):
            self._images.keep(max_bytes)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> Batch:
        return {name: tensor for name, tensor in self._images.batch(indices).items() if name != "labels"}


def open_unlabelled_images(
    path: Path, shape: ImageShape, preprocessing: Preprocessing, options: TableOptions = NO_OPTIONS
) -> UnlabelledImages:
    """A folder with images anywhere in it, a table with a column of images, or arrays.

    Raises `DataError`: missing, empty, of another kind or shape, or not finite.
    """
    try:
        if is_table(path):
            table = open_table(path, split=options.split, limit=options.limit)
            source = open_images_of(table, path, dict(options.columns), mode_for(shape, preprocessing))
            none, prepared = _none(len(table)), sized(preprocessing, source)
            return UnlabelledImages(DecodedImages(source, none, prepared, table.remarks))
        if is_folder(path):
            mode = mode_for(shape, preprocessing)
            found = find_unlabelled(path)
            files = found.images[""]
            remarks = filter(None, (found.remark(),))
            return UnlabelledImages(of_files(files, _none(len(files)), mode, preprocessing, tuple(remarks)))
        if not is_file(path) or path.suffix.lower() not in (".npz", ".safetensors"):
            raise DataError(
                "invalid-data",
                f"Images without labels must be a folder of image files, a table with images, an .npz or a "
                f".safetensors file, but `{path}` is none of these.",
            )
        images = as_images(read_images(path), shape, path)
        return UnlabelledImages(of_arrays(images, _none(len(images)), shape, preprocessing, path))
    except OSError as error:
        raise DataError(
            "invalid-data", f"`{error.filename or path}` must be readable, but is not ({error.strerror})."
        ) from error


def _none(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)
