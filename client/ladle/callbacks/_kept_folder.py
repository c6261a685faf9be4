"""The folder of one training's checkpoints: `checkpoint-100/`, `checkpoint-200/`, ...

A checkpoint is written under a hidden name, brought to the disk, and renamed. Readers pass over hidden names, so they
see a checkpoint whole or not at all.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
HIDDEN = re.compile(r"\.(checkpoint-\d+)\.(\d+)\.(new|replaced|removed)")
"""`.checkpoint-100.4711.new`, of process 4711."""


class KeptFolder:
    """`steps` are those of this training, in order. The others are of an earlier one that went further."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[int] = []
        self.of_others: list[int] = []

    def begin(self, first_step: int) -> None:
        """Clears what a killed process left, and takes over the checkpoints before `first_step`."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._clear()
        found = steps_in(self.path)
        self.steps = [step for step in found if step < first_step]
        self.of_others = [step for step in found if step >= first_step]

    def add(self, step: int, write: Callable[[Path], None]) -> None:
        """Writes a checkpoint, in the place of one of the same step. On an error nothing is left of it."""
        new = self._hidden(step, "new")
        remove(new)
        try:
            new.mkdir(parents=True)
            write(new)
            put_in_place(new, self.checkpoint(step), aside=self._hidden(step, "replaced"))
        except BaseException:
            with suppress(OSError):
                remove(new)
            raise
        self.steps = sorted({*self.steps, step})
        self.of_others = [each for each in self.of_others if each != step]

    def keep_last(self, count: int, in_use: Collection[int] = ()) -> None:
        """Removes all but the newest, and those that are in use."""
        for step in self.steps[:-count]:
            if step in in_use:
                continue
            # Renamed first, so that nobody sees one that is half there.
            aside = self._hidden(step, "removed")
            remove(aside)
            self.checkpoint(step).rename(aside)
            remove(aside)
            self.steps = [each for each in self.steps if each != step]

    def checkpoint(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def _hidden(self, step: int, kind: str) -> Path:
        return self.path / f".checkpoint-{step}.{os.getpid()}.{kind}"

    def _clear(self) -> None:
        for path in sorted(self.path.iterdir()):
            match = HIDDEN.fullmatch(path.name)
            if match is None or _is_at_work(int(match[2])):
                continue
            place = self.path / match[1]
            if match[3] == "replaced" and not place.exists():
                path.rename(place)
            else:
                remove(path)


def steps_in(folder: Path) -> list[int]:
    """Of the checkpoints that are there, in order."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := CHECKPOINT.fullmatch(name)))


def put_in_place(new: Path, place: Path, *, aside: Path) -> None:
    """Brings a finished folder to the disk, and gives it its name. What had the name before is removed."""
    for path in _everything_in(new):
        _to_disk(path)
    if place.exists():
        remove(aside)
        place.rename(aside)
    new.rename(place)
    _to_disk(place.parent)
    with suppress(OSError):
        remove(aside)


def remove(path: Path) -> None:
    """Of a folder or a file that may be gone. Raises OSError where something stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _everything_in(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder, topdown=False):
        yield from (Path(where, name) for name in names)
        yield Path(where)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_at_work(pid: int) -> bool:
    """In a container a new process often has the number of the old one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
