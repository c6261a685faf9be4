"""A folder of class folders: which files are images, and which label each folder stands for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.storage.boundary import status
from ladle_engine.storage.input_paths import entries_of, is_file, is_folder, real_path
from ladle_engine.tasks.images.files import SUFFIXES
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.label_names import Labels, by_loose_name, by_number, labels_of

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"))
"""Names of parts of a data set, which are no classes."""


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    root: Path
    images: Mapping[str, Sequence[Path]]
    """Name of each folder in `root` -> the images in it, however deep; in order of their names."""
    passed_over: Sequence[Path] = field(default_factory=list)
    """Files in the folders that are no images."""

    def remark(self) -> str | None:
        """What is passed over, in words."""
        if not self.passed_over:
            return None
        names = [str(path.relative_to(self.root)) for path in self.passed_over]
        return (
            f"{len(names)} files in the folders of `{self.root}` are passed over, because they are not "
            f"{', '.join(SUFFIXES)}: {listed(names)}."
        )


def find_images(root: Path) -> ClassFolders:
    """Hidden files and folders are left out. Raises `DataError`: a link leads out of `root`, or nothing is found."""
    real_root = real_path(root)
    passed_over: list[Path] = []
    images: dict[str, list[Path]] = {}
    entries = [entry for entry in entries_of(root) if not entry.name.startswith(".")]
    for entry in entries:
        folder = root / entry.name
        if not (entry.is_folder or (entry.is_link and is_folder(folder))):
            continue
        if entry.is_link:
            _target_of(folder, real_root)
        images[entry.name] = []
        for path, is_regular in sorted(files_below(folder, real_root, set())):
            is_image = is_regular and path.suffix.lower() in SUFFIXES
            (images[entry.name] if is_image else passed_over).append(path)
    if not any(images.values()):
        beside = sum(Path(entry.name).suffix.lower() in SUFFIXES for entry in entries)
        raise DataError(
            "empty-data",
            f"An image folder must hold one sub-folder per class with {', '.join(SUFFIXES)} files, but `{root}` holds "
            f"{len(images)} sub-folders and no image in them"
            + (f", only {beside} images beside them." if beside else f"{_kinds(passed_over)}."),
        )
    return ClassFolders(root=root, images=images, passed_over=passed_over)


def find_unlabelled(root: Path) -> ClassFolders:
    """All images in a folder, however deep and however its sub-folders are named. Raises as `find_images`."""
    images: list[Path] = []
    passed_over: list[Path] = []
    for path, is_regular in sorted(files_below(root, real_path(root), set())):
        (images if is_regular and path.suffix.lower() in SUFFIXES else passed_over).append(path)
    if not images:
        raise DataError(
            "empty-data",
            f"A folder of images must hold {', '.join(SUFFIXES)} files, but `{root}` holds none{_kinds(passed_over)}.",
        )
    return ClassFolders(root=root, images={"": images}, passed_over=passed_over)


def files_below(folder: Path, real_root: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, bool]]:
    """Whatever is no folder, and whether it is a regular file; a pipe or a broken link is not.

    A folder to which links lead once more is walked once.
    """
    found = status(folder)
    if (found.st_dev, found.st_ino) in seen:
        return
    seen.add((found.st_dev, found.st_ino))
    pulse()
    for entry in entries_of(folder):
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        target = _target_of(path, real_root) if entry.is_link else None
        if entry.is_folder or (target is not None and is_folder(target)):
            yield from files_below(path, real_root, seen)
        else:
            yield path, entry.is_regular or (target is not None and is_file(target))


def _target_of(link: Path, real_root: Path) -> Path:
    target = real_path(link)
    if not target.is_relative_to(real_root):
        raise DataError("path-not-allowed", f"Images must lie inside `{real_root}`, but `{link}` leads out of it.")
    return target


def _kinds(files: Sequence[Path]) -> str:
    kinds = Counter(file.suffix.lower() or file.name for file in files)
    return f", but files of other kinds ({', '.join(kind for kind, _ in kinds.most_common(5))})" if kinds else ""


def find_labels(folders: ClassFolders, shape: ImageShape) -> tuple[Labels, str | None]:
    """Folder name -> label for every folder with images, and what should be said of it.

    One scheme names all folders; the first that does is taken. Raises `DataError` (unknown-classes).
    """
    names = [name for name, images in folders.images.items() if images]
    known = shape.class_ids or {}
    if (labels := labels_of(names, known, shape.num_classes)) is not None:
        by_numbers = labels == by_number(names, known, shape.num_classes)
        return labels, _remark_on_numbers(names, shape) if by_numbers else None
    refuse_splits(folders, names, shape)
    if not has_names(shape) or all(re.fullmatch(r"n\d{8}", name, re.ASCII) for name in names):
        for candidates in (list(folders.images), names):
            if len(candidates) == shape.num_classes:
                return {name: label for label, name in enumerate(sorted(candidates))}, None
        raise DataError(
            "unknown-classes",
            f"There must be one class folder for each of the model's {shape.num_classes} classes, or folders named by "
            f"number from 0 to {shape.num_classes - 1}, but `{folders.root}` has {len(names)}: {listed(names)}.",
        )
    unknown = [name for name in names if by_loose_name([name], known, shape.num_classes) is None]
    raise DataError(
        "unknown-classes",
        f"Class folders must be named as in the model's config ({listed(list(known))}) or by number from 0 to "
        f"{shape.num_classes - 1}, but `{folders.root}` has "
        f"{listed(unknown or names, quote='`')}.",
    )


def has_names(shape: ImageShape) -> bool:
    """Whether the model's config names its classes, other than by transformers' own defaults."""
    names = shape.class_ids
    return names is not None and any(name != f"LABEL_{label}" for name, label in names.items())


def _remark_on_numbers(names: Sequence[str], shape: ImageShape) -> str | None:
    if has_names(shape) or sorted(names) == sorted(names, key=int):
        return None
    return (
        "Class folders are named by number, and taken as these labels. Loaders that sort folders as text put 10 before "
        "2: if the model was trained with such a loader, give its `config.json` an `id2label` with the folders' names."
    )


def refuse_splits(folders: ClassFolders, names: Sequence[str], shape: ImageShape) -> None:
    """Raises `DataError` where a folder is not a class, but holds class folders."""
    for name in names:
        inner = [image.relative_to(folders.root / name).parts for image in folders.images[name]]
        if any(len(parts) == 1 for parts in inner):
            continue
        below = sorted({parts[0] for parts in inner})
        alone = len(names) == 1 < shape.num_classes
        if alone or name.casefold() in SPLITS or by_loose_name(below, shape.class_ids or {}, shape.num_classes):
            raise DataError(
                "unknown-classes",
                f"An image folder must hold one sub-folder per class, but `{folders.root}` holds `{name}`, which holds "
                f"sub-folders itself ({listed(below)}). Did you mean `{folders.root / name}`?",
            )


def listed(names: Sequence[str], quote: str = "") -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(f"{quote}{name}{quote}" for name in names[:10]) + more
