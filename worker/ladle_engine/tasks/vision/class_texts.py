"""What the classes of a zero-shot data set are called, and the texts that are made of that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.storage.input_paths import is_file, is_folder, read_bytes
from ladle_engine.tasks.images.class_folders import find_images, listed, refuse_splits
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.label_names import loose_name
from ladle_engine.tasks.tables import TableOptions, open_table
from ladle_engine.tasks.vision.image_table import is_table, label_names

FILE = "classes.txt"
MAX_BYTES = 4 << 20
MAX_TEXTS = 200_000
SLOT = "{}"


@dataclass(frozen=True, kw_only=True)
class ClassTexts:
    names: Sequence[str]
    """In order of the labels."""
    ids: Mapping[str, int]
    """What a class is called in the data set -> its label."""

    def filled(self, templates: Sequence[str]) -> list[str]:
        """Class by class, each with every template."""
        if len(self.names) * len(templates) > MAX_TEXTS:
            raise DataError(
                "invalid-data",
                f"Classes times `templates` must be at most {MAX_TEXTS:,} texts, but are {len(self.names):,} times "
                f"{len(templates):,}.",
            )
        return [template.replace(SLOT, name) for name in self.names for template in templates]


def class_texts(path: Path, options: TableOptions, given: Sequence[str] | None) -> ClassTexts:
    """`given` is the task option `classes`. Raises `DataError` where nothing says what the classes are called."""
    if given is not None:
        return _plain(list(given))
    if is_table(path):
        return _of_table(path, options)
    if not is_folder(path):
        raise DataError(
            "unknown-classes",
            f"The classes of `{path.name}` must have names, which arrays have not. Give the task option `classes`, a "
            f"list of names in order of the labels.",
        )
    found = find_images(path)
    folders = [name for name, images in found.images.items() if images]
    refuse_splits(found, folders, ImageShape(channels=3, num_classes=len(folders), class_ids=None))
    if is_file(path / FILE):
        return _of_file(path / FILE, folders)
    if all(re.fullmatch(r"n\d{8}", name, re.ASCII) for name in folders):
        raise DataError(
            "unknown-classes",
            f"The class folders of `{path}` are WordNet's ids, which say nothing to the model. Put a `{FILE}` there "
            f"with a line for each, such as `{folders[0]} tench`.",
        )
    return ClassTexts(names=[spoken(name) for name in folders], ids={name: label for label, name in enumerate(folders)})


def spoken(name: str) -> str:
    """`golden_retriever` -> `golden retriever`"""
    return re.sub(r"[\s_-]+", " ", name).strip()


def _plain(names: Sequence[str]) -> ClassTexts:
    return ClassTexts(names=names, ids={name: label for label, name in enumerate(names)})


def _of_table(path: Path, options: TableOptions) -> ClassTexts:
    table = open_table(path, split=options.split, limit=options.limit)
    names = label_names(table, options.columns)
    if not names:
        raise DataError(
            "unknown-classes",
            f"The classes of `{path.name}` must have names, but their column holds numbers without any. Give the task "
            f"option `classes`, a list of names in order of the labels.",
        )
    return ClassTexts(names=[spoken(name) for name in names], ids={name: label for label, name in enumerate(names)})


def _of_file(path: Path, folders: Sequence[str]) -> ClassTexts:
    """A line for each class: the folder's name and what it is called; or names alone, those of the folders or in order
    of theirs. Lines without a folder are classes without an image.
    """
    lines = _lines(path)
    split = [re.split(r"[\s,:]+", line, maxsplit=1) for line in lines]
    labels = {parts[0]: label for label, parts in enumerate(split) if len(parts) == 2}
    if all(folder in labels for folder in folders):
        return ClassTexts(names=[parts[-1] for parts in split], ids=labels)
    by_name = {loose_name(line): label for label, line in enumerate(lines)}
    if all(loose_name(folder) in by_name for folder in folders):
        return ClassTexts(names=lines, ids={folder: by_name[loose_name(folder)] for folder in folders})
    if len(lines) != len(folders):
        raise DataError(
            "unknown-classes",
            f"`{path}` must have a line for each class folder, in order of their names or beginning with them, but has "
            f"{len(lines)} lines for {len(folders)} folders ({listed(folders)}).",
        )
    return ClassTexts(names=lines, ids={folder: label for label, folder in enumerate(sorted(folders))})


def _lines(path: Path) -> list[str]:
    content = read_bytes(path, MAX_BYTES)
    if len(content) > MAX_BYTES:
        raise DataError("invalid-data", f"`{path}` must have at most {MAX_BYTES:,} bytes, but has more.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("invalid-data", f"`{path}` must be UTF-8, but is not ({error}).") from error
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise DataError("empty-data", f"`{path}` must hold a line for each class, but holds none.")
    return found
