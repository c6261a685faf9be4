"""What a layout is asked: whether a folder is one checkpoint of its tool."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ladle_engine.checkpoints.files import Candidate, PassedOver, files_in, leads_out
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import EngineError
from ladle_engine.storage.input_paths import Entry, entries_of

MOST_ENTRIES = 10_000
"""Of a sub-folder: what holds more is no checkpoint."""
MOST_CHILDREN = 50
"""Folders inside it that are looked into."""

Found = Candidate | PassedOver


def within(run: str, name: str) -> str:
    """The name of something in a folder, relative to what the folder's own name is relative to."""
    return f"{run}/{name}" if run else name


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that may be one checkpoint. Nothing in it is opened; what links lead out of `root` to is not looked at.

    Raises `OSError` where it cannot be listed.
    """

    path: Path
    name: str
    """The checkpoint's name, if it is one: its path relative to `CheckpointSet.folder`."""
    root: Path
    """The folder that a person gave; all that is used must lie inside it."""
    component: str | None = None
    """Of a checkpoint that is made of several models, each in a folder of its own: the one that is wanted."""
    most: int | None = MOST_ENTRIES
    """Entries that are listed."""

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """In order of their names, hidden ones too."""
        return tuple(entries_of(self.path, self.most))

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.entries)

    @cached_property
    def children(self) -> tuple[str, ...]:
        """The folders in it, without links and hidden ones; a checkpoint has not many."""
        return tuple(each.name for each in self.entries if each.is_folder and not each.name.startswith("."))

    @cached_property
    def files(self) -> tuple[Found, ...]:
        """What its files are by their names, as `files_in` tells."""
        return tuple(files_in(self.visible, self.root))

    @property
    def visible(self) -> list[Path]:
        """The paths of all but hidden entries."""
        return [self.path / entry.name for entry in self.entries if not entry.name.startswith(".")]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those of `files` that may be a checkpoint."""
        return tuple(each for each in self.files if isinstance(each, Candidate))

    def child(self, name: str) -> Folder:
        return Folder(path=self.path / name, name=within(self.name, name), root=self.root, component=self.component)

    def inner(self, child: str) -> frozenset[str]:
        """Names in one of the folders in it, hidden ones too. None for what is no folder, or is out of reach."""
        return self._inner.get(child, frozenset())

    def has(self, marker: str) -> bool:
        """Whether a glob of one level (`.metadata`), or of two (`*/.metadata`), matches something in it."""
        first, _, second = marker.partition("/")
        if not second:
            return any(fnmatch.fnmatchcase(name, first) for name in self.names)
        return any(
            fnmatch.fnmatchcase(name, second)
            for child, names in self._inner.items()
            if fnmatch.fnmatchcase(child, first)
            for name in names
        )

    @cached_property
    def _inner(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for child in self.children[:MOST_CHILDREN]:
            with suppress(OSError, EngineError):
                found[child] = frozenset(each.name for each in entries_of(self.path / child, MOST_ENTRIES))
        return found

    def leads_out(self, name: str) -> bool:
        """Whether something in it is a link out of `root`."""
        return leads_out(self.path / name, self.root)

    def checkpoint(self, files: Sequence[Path], form: str, step: int | None = None) -> Candidate:
        """This folder as a checkpoint, read from these files by `readers.READERS[form]`."""
        return Candidate(checkpoint=Checkpoint(name=self.name, step=step, files=tuple(files), format=form))

    def passed_over(self, reason: str) -> list[Found]:
        """This folder is no use, and why: `reason` stands in brackets after its name."""
        return [PassedOver(name=self.name, reason=reason)]


Layout = Callable[[Folder], Sequence[Found] | None]
"""What a folder is as one checkpoint of a tool: the checkpoint, first, with what is passed over beside it; or only why
it is no use. None where it is not of this tool. It decides by names alone and opens nothing but small indices."""
