"""A look at a folder into which somebody writes: names, sizes and times of the files that may hold weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

Files = Mapping[str, tuple[int, int]]
"""Path inside the folder -> size in bytes, and the time of the last change in nanoseconds."""

WEIGHTS = re.compile(r"\.(safetensors|pt|pth|bin|ckpt|tar|nemo|distcp|metadata)(?=\.|$)", re.IGNORECASE)
"""Logs and tables of a training change all the time, and say nothing about its checkpoints."""
MOST_DEPTH = 8


def look(folder: Path) -> Files:
    """What is there now. Nothing where there is no folder; what cannot be read is left out."""
    return dict(_files(folder, "", frozenset()))


def settled(before: Files, now: Files) -> Files:
    """The files that have not changed between two looks."""
    return {name: found for name, found in now.items() if before.get(name) == found}


def finished_at(checkpoint: str, num_files: int, before: Files, now: Files) -> float | None:
    """When the newest file of a checkpoint was changed, in seconds since 1970. None while one of them still changes.

    A checkpoint is a folder, a file, or several files that are called after the first of them or after their index.
    """
    own = [name for name in now if is_part(name, checkpoint, num_files)]
    if not own or any(before.get(name) != now[name] for name in own):
        return None
    return max(now[name][1] for name in own) / 1e9


def is_part(file: str, checkpoint: str, num_files: int) -> bool:
    """Whether a file belongs to a checkpoint. Of several files beside each other it may take one too many."""
    if file == checkpoint or checkpoint == "." or file.startswith(f"{checkpoint}/"):
        return True
    beside = PurePosixPath(file).parent == PurePosixPath(checkpoint).parent
    is_one_of_several = num_files > 1 and WEIGHTS.search(checkpoint) is not None
    return beside and is_one_of_several


def _files(folder: Path, name: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    with suppress(OSError):
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above or len(above) > MOST_DEPTH:
            # A link to a folder above it.
            return
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            yield from _entry(entry, f"{name}{entry.name}", above | {here})


def _entry(
    entry: os.DirEntry[str], name: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, tuple[int, int]]]:
    # It may vanish at any moment.
    with suppress(OSError):
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{name}/", above)
        elif WEIGHTS.search(entry.name):
            status = entry.stat()
            yield name, (status.st_size, status.st_mtime_ns)
