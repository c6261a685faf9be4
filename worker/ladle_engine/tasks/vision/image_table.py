"""Images in the rows of a table: as encoded bytes, as the `Image` feature of datasets, or as the path of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ladle_engine.errors import DataError, TaskError
from ladle_engine.storage.input_paths import entries_of, is_file, is_folder, real_path
from ladle_engine.tasks.images.class_folders import has_names, listed
from ladle_engine.tasks.images.files import SUFFIXES, decode_bytes, read_image
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.label_names import labels_of
from ladle_engine.tasks.tables import open_table
from ladle_engine.tasks.tables.base import BYTES, IMAGE, OBJECT, OR, TEXT, WHOLE, Table
from ladle_engine.tasks.tables.columns import Role, TableOptions, find_columns

TABLES = (".parquet", ".arrow", ".feather", ".ipc", ".tar")
"""Files of which a folder is a table. Others may be notes beside class folders."""
MARKS = ("dataset_dict.json", "state.json")
"""In a folder that datasets saved."""
IMAGE_NAMES = ("img", "pixel_values", "file_name", "image_path", "path", "filepath")
IMAGE_ROLE = Role("image", IMAGE_NAMES, kinds=(BYTES, IMAGE, TEXT))
LABEL_ROLE = Role("label", ("labels", "cls", "class", "target", "fine_label"), kinds=(WHOLE, TEXT))
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class TableImages:
    """An `ImageSource`."""

    table: Table
    columns: Sequence[str]
    """The first that has a value in a row is its image: shards may have `.jpg` and `.png` side by side."""
    folder: Path
    """Where the paths of files begin. None of them may lead out of it."""
    mode: str | None

    def fetch(self, indices: Sequence[int]) -> Sequence[tuple[bytes, str]]:
        """Encoded, with where that stands."""
        rows = self.table.rows(indices, list(self.columns))
        return [self._encoded(row, self.table.place(index)) for index, row in zip(indices, rows, strict=True)]

    def open(self, fetched: tuple[bytes, str]) -> Image.Image:
        content, place = fetched
        return decode_bytes(content, place, self.mode)

    def place(self, index: int) -> str:
        return self.table.place(index)

    def _encoded(self, row: Mapping[str, Any], place: str) -> tuple[bytes, str]:
        value = next((row[column] for column in self.columns if row[column] is not None), None)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value, place
        if isinstance(value, str):
            path = self._inside(value, place)
            return read_image(path), f"`{path}`"
        raise DataError("invalid-data", f"Every row must have an image, but that of {place} has none.")

    def _inside(self, name: str, place: str) -> Path:
        path = self.folder / name
        if "\0" in name or not real_path(path).is_relative_to(real_path(self.folder)):
            raise DataError(
                "path-not-allowed",
                f"Images must lie inside `{self.folder}`, but `{name[:200]!r}` of {place} leads out of it.",
            )
        return path


def is_table(path: Path) -> bool:
    """Whether a data set is a table, and not a folder of class folders or arrays. Raises `OSError`."""
    if not is_folder(path):
        return path.suffix.lower() in (*TABLES, ".csv", ".tsv", ".jsonl", ".ndjson", ".json") and is_file(path)
    return _holds_tables(path) or any(
        _holds_tables(path / entry.name) for entry in entries_of(path) if entry.is_folder and entry.name[:1] != "."
    )


def _holds_tables(folder: Path) -> bool:
    names = [entry.name.lower() for entry in entries_of(folder) if not entry.is_folder]
    return any(name in MARKS or name.endswith(TABLES) for name in names) and not any(
        name.endswith(SUFFIXES) for name in names
    )


def open_images_of(table: Table, path: Path, given: Mapping[str, str], mode: str | None) -> TableImages:
    """`given` is the task option `columns`. Raises `DataError` where no column holds images."""
    return TableImages(
        table=table,
        columns=_image_columns(table, given),
        folder=path if is_folder(path) else path.parent,
        mode=mode,
    )


def open_labelled(
    path: Path, shape: ImageShape, options: TableOptions, mode: str | None
) -> tuple[TableImages, Tensor, Sequence[str]]:
    """The images, their labels (int64 [N]), and what should be said. Raises `DataError`."""
    table = open_table(path, split=options.split, limit=options.limit)
    given = dict(options.columns)
    _refuse_unknown_roles(given)
    images = open_images_of(table, path, given, mode)
    others = {role: column for role, column in given.items() if role != IMAGE_ROLE.name}
    column, key = _label_column(table, others)
    labels = _Labels(table=table, column=column, key=key, shape=shape, path=path)
    return images, labels.all(), table.remarks


def _refuse_unknown_roles(given: Mapping[str, str]) -> None:
    if unknown := [role for role in given if role not in (IMAGE_ROLE.name, LABEL_ROLE.name)]:
        raise TaskError(
            "invalid-task-options",
            f"`columns` must name columns for `{IMAGE_ROLE.name}` and `{LABEL_ROLE.name}`, but does for "
            f"`{unknown[0]}`.",
        )


def label_names(table: Table, given: Mapping[str, str]) -> Sequence[str]:
    """What the classes are called, in order of their numbers; none where there are but numbers. Raises `DataError`."""
    column, key = _label_column(table, {role: name for role, name in given.items() if role != IMAGE_ROLE.name})
    if names := table.class_names.get(column):
        return names
    values = set(_values(table, column, key))
    return sorted(values) if all(isinstance(value, str) and not value.isdigit() for value in values) else ()


def _image_columns(table: Table, given: Mapping[str, str]) -> Sequence[str]:
    if IMAGE_ROLE.name not in given:
        files = [name for name, kind in table.columns.items() if f".{name}" in SUFFIXES and kind == BYTES]
        if files:
            return files
    wanted = {role: column for role, column in given.items() if role == IMAGE_ROLE.name}
    return [find_columns(table, [IMAGE_ROLE], wanted)[IMAGE_ROLE.name]]


def _label_column(table: Table, given: Mapping[str, str]) -> tuple[str, str | None]:
    """The column and, where it holds objects (a shard's `.json`), the name in them."""
    optional = Role(LABEL_ROLE.name, LABEL_ROLE.usual, required=False, kinds=LABEL_ROLE.kinds)
    names = (LABEL_ROLE.name, *LABEL_ROLE.usual)
    objects = [name for name, kind in table.columns.items() if kind == OBJECT]
    found = find_columns(table, [optional], given) if not given or given.get("label") not in objects else {}
    if found:
        return found[LABEL_ROLE.name], None
    if len(objects) == 1 and len(table):
        first = table.rows([0], objects)[0][objects[0]] or {}
        key = next((name for name in names if name in first), None)
        if key is not None:
            return objects[0], key
    return find_columns(table, [LABEL_ROLE], given)[LABEL_ROLE.name], None


def _values(table: Table, column: str, key: str | None) -> Iterator[Any]:
    for start in range(0, len(table), ROWS_AT_A_TIME):
        for row in table.rows(range(start, min(start + ROWS_AT_A_TIME, len(table))), [column]):
            yield row[column] if key is None else (row[column] or {}).get(key)


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Numbers, or names of classes, as labels of the model."""

    table: Table
    column: str
    key: str | None
    shape: ImageShape
    path: Path

    def all(self) -> Tensor:
        """int64 [N]"""
        names = self.table.class_names.get(self.column)
        values = [*_values(self.table, self.column, self.key)]
        if names and has_names(self.shape):
            # Other numbers than the model's, perhaps, but names that both have.
            label_of = self._matched(sorted({names[value] for value in values if self._is_named(value, names)}))
            values = [label_of[names[value]] if self._is_named(value, names) else value for value in values]
        elif texts := sorted({value for value in values if isinstance(value, str)}):
            label_of = self._matched(texts) if set(map(type, values)) == {str} else {}
            values = [label_of.get(value, value) for value in values]
        for index, value in enumerate(values):
            if type(value) is not int or not 0 <= value < self.shape.num_classes:
                raise DataError(
                    "unknown-classes",
                    f"Labels must be from 0 to {self.shape.num_classes - 1}, the model's classes, but that of "
                    f"{self.table.place(index)} is {value!r:.100}.",
                )
        return torch.tensor(values, dtype=torch.int64)

    @staticmethod
    def _is_named(value: Any, names: Sequence[str]) -> bool:
        return type(value) is int and 0 <= value < len(names)

    def _matched(self, names: Sequence[str]) -> Mapping[str, int]:
        labels = labels_of(names, self.shape.class_ids or {}, self.shape.num_classes)
        if labels is None and not has_names(self.shape) and len(names) == self.shape.num_classes:
            labels = {name: label for label, name in enumerate(names)}
        if labels is None:
            known = listed(list(self.shape.class_ids or {})) or f"numbers from 0 to {self.shape.num_classes - 1}"
            raise DataError(
                "unknown-classes",
                f"Labels must be named as in the model's config ({known}){OR}by number, but `{self.path}` has "
                f"{listed(names, quote='`')}.",
            )
        return labels
