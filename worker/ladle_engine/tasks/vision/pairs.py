"""Sets of images with a caption each, cut into fixed groups: in a group, every caption is a candidate for every image.

An example is a group, so that its values depend on nothing else: neither on batches, nor on ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import entries_of, is_file, is_folder, read_bytes, real_path
from ladle_engine.tasks.images.class_folders import files_below, listed
from ladle_engine.tasks.images.data_sets import DecodedImages, ImageFiles, ImageSource
from ladle_engine.tasks.images.files import SUFFIXES
from ladle_engine.tasks.tables import OBJECT, TEXT, TEXTS, Role, Table, TableOptions, find_columns, open_table
from ladle_engine.tasks.vision.image_table import LABEL_ROLE, is_table, open_images_of
from ladle_engine.tasks.vision.text_inputs import TextInputs

CAPTION_ROLE = Role("caption", ("captions", "text", "txt", "sentence", "sentences", "title"), kinds=(TEXT, TEXTS))
NOTES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in (".jsonl", ".csv", ".tsv", ".json"))
"""Files in a folder of images that have their captions."""
MAX_CAPTION_BYTES = 1 << 20
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class Pairs:
    images: ImageSource
    captions: Sequence[str]
    remarks: Sequence[str] = ()


class GroupedPairs:
    """A data set of groups."""

    def __init__(self, images: DecodedImages, texts: TextInputs, groups: Tensor, remarks: Sequence[str]) -> None:
        """`groups` are the pairs of each, int64 [groups, pairs]."""
        self._images = images
        self._texts = texts
        self._groups = groups
        self.remarks = remarks

    def __len__(self) -> int:
        return len(self._groups)

    def keep(self, max_bytes: int) -> None:
        self._images.keep(max_bytes)

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        """Each [B, pairs, ...]"""
        pairs = self._groups[indices]
        pixels = self._images.batch(pairs.flatten())["pixel_values"]
        return {"pixel_values": pixels.view(*pairs.shape, *pixels.shape[1:]), **self._texts.at(pairs)}


def groups_of(count: int, most: int) -> Tensor:
    """Pairs in a random order that is always the same, in groups of one size: about `most`, and fewer of a small set.

    int64 [groups, pairs]. What is left over is left out. Raises `DataError` (too-little-data) for less than 4 pairs.
    """
    if count < 4:
        raise DataError("too-little-data", f"A set of pairs must have at least 4, but has {count}.")
    size = max(min(most, count // 16), 2)
    number = count // size
    size = count // number
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: number * size].view(number, size)


def is_pairs(path: Path, options: TableOptions) -> bool:
    """Whether a data set has captions, and not classes. Raises `OSError` and `DataError`."""
    if is_table(path):
        return _has_captions(open_table(path, split=options.split, limit=options.limit), options.columns)
    if not is_folder(path):
        return False
    return _notes_in(path) is not None or _first_has_caption(path)


def open_pairs(path: Path, options: TableOptions, mode: str | None) -> Pairs:
    """Raises `DataError`: no image, no caption, or one that is empty."""
    if is_table(path):
        return _of_table(path, path, options, mode)
    if (notes := _notes_in(path)) is not None:
        return _of_table(path / notes, path, options, mode)
    return _of_files(path, mode)


def _of_table(path: Path, folder: Path, options: TableOptions, mode: str | None) -> Pairs:
    table = open_table(path, split=options.split, limit=options.limit)
    given = dict(options.columns)
    images = open_images_of(table, folder, {role: name for role, name in given.items() if role != "caption"}, mode)
    captions = _captions(table, {role: name for role, name in given.items() if role == "caption"})
    return Pairs(images=images, captions=captions, remarks=table.remarks)


def _captions(table: Table, given: Mapping[str, str]) -> list[str]:
    column, key = _caption_column(table, given)
    found: list[str] = []
    for start in range(0, len(table), ROWS_AT_A_TIME):
        indices = range(start, min(start + ROWS_AT_A_TIME, len(table)))
        for index, row in zip(indices, table.rows(indices, [column]), strict=True):
            value = row[column]
            found.append(_caption(value if key is None else (value or {}).get(key), table.place(index)))
    return found


def _caption_column(table: Table, given: Mapping[str, str]) -> tuple[str, str | None]:
    """The column and, where it holds objects (a shard's `.json`), the name in them."""
    if not given and (key := _caption_key(table)) is not None:
        return key
    return find_columns(table, [CAPTION_ROLE], given)[CAPTION_ROLE.name], None


def _caption_key(table: Table) -> tuple[str, str] | None:
    names = (CAPTION_ROLE.name, *CAPTION_ROLE.usual)
    objects = [name for name, kind in table.columns.items() if kind == OBJECT]
    if len(objects) != 1 or not len(table) or any(name in table.columns for name in names):
        return None
    first = table.rows([0], objects)[0][objects[0]] or {}
    return next(((objects[0], name) for name in names if name in first), None)


def _has_captions(table: Table, given: Mapping[str, str]) -> bool:
    if CAPTION_ROLE.name in given or LABEL_ROLE.name in given:
        return CAPTION_ROLE.name in given
    optional = Role(CAPTION_ROLE.name, CAPTION_ROLE.usual, required=False, kinds=CAPTION_ROLE.kinds)
    return _caption_key(table) is not None or bool(find_columns(table, [optional], {}))


def _caption(value: Any, place: str) -> str:
    """The first of several, as sets with five captions per image have them."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, str) or not first.strip():
        raise DataError("invalid-data", f"Every image must have a caption, but that of {place} has none.")
    return first.strip()


def _notes_in(folder: Path) -> str | None:
    names = {entry.name for entry in entries_of(folder)}
    return next((name for name in NOTES if name in names), None)


def _first_has_caption(folder: Path) -> bool:
    for path, is_regular in files_below(folder, real_path(folder), set()):
        if is_regular and path.suffix.lower() in SUFFIXES:
            return is_file(path.with_suffix(".txt"))
    return False


def _of_files(folder: Path, mode: str | None) -> Pairs:
    """Images with a text file of the same name beside each."""
    files = sorted(path for path, is_regular in files_below(folder, real_path(folder), set()) if is_regular)
    there = set(files)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    lacking = [str(path.relative_to(folder)) for path in images if path.with_suffix(".txt") not in there]
    if lacking:
        raise DataError(
            "invalid-data",
            f"Every image must have a caption beside it, such as `0001.txt` for `0001.jpg`, but {len(lacking)} in "
            f"`{folder}` have none: {listed(lacking)}.",
        )
    captions = [_caption(_read(path.with_suffix(".txt")), f"`{path}`") for path in images]
    return Pairs(images=ImageFiles(files=images, mode=mode), captions=captions)


def _read(path: Path) -> str:
    content = read_bytes(path, MAX_CAPTION_BYTES)
    if len(content) > MAX_CAPTION_BYTES:
        raise DataError(
            "invalid-data", f"A caption must have at most {MAX_CAPTION_BYTES:,} bytes, but `{path}` has more."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("invalid-data", f"`{path}` must be UTF-8, but is not ({error}).") from error
