"""What a person gave as `ckpt_dir`: a folder, a glob, or several of them, as one set of places to look at."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ladle_engine.checkpoints.files import seems_file, seems_folder
from ladle_engine.errors import CheckpointError
from ladle_engine.paths import PathLike
from ladle_engine.storage.input_paths import entries_of, is_there

CkptDir = PathLike | Sequence[PathLike]

MAGIC = re.compile(r"[*?\[]")
MOST_MEMBERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where checkpoints are looked for."""

    folder: Path
    """What their names are relative to: the folder itself or, of several, the folder that holds all of them."""
    members: tuple[Path, ...]
    """Folders, and files where a glob or a list names files."""

    @property
    def is_one_folder(self) -> bool:
        return self.members == (self.folder,)

    def root_of(self, path: Path) -> Path:
        """The member that a path is in, out of which no link may lead. A file's is the folder that it is in."""
        member = next((each for each in self.members if path.is_relative_to(each)), self.folder)
        return member if seems_folder(member) else member.parent


def sources_of(ckpt_dir: CkptDir) -> Sources:
    """A path that is there is taken as it is, whatever signs it has; else `*`, `?` and `[` make it a glob.

    Raises `ValueError` for what is no path, and `CheckpointError` (no-checkpoints) where there is nothing.
    """
    given = paths_of(ckpt_dir)
    if len(given) == 1 and not is_glob(given[0]):
        return Sources(folder=given[0], members=(given[0],))
    members = tuple(dict.fromkeys(member for path in given for member in _members(path)))
    if len(members) > MOST_MEMBERS:
        raise CheckpointError(
            "no-checkpoints", f"`ckpt_dir=` must name at most {MOST_MEMBERS:,} folders, but names {len(members):,}."
        )
    folder = Path(os.path.commonpath([member.parent for member in members]))
    return Sources(folder=folder, members=members)


def no_folder(path: Path) -> CheckpointError:
    """A typing mistake is told from a file."""
    why = "is none. Give the folder that the checkpoints are in" if is_there(path) else "does not exist"
    return CheckpointError("no-checkpoints", f"`ckpt_dir=` must be a folder, but `{path}` {why}.")


def paths_of(ckpt_dir: CkptDir) -> tuple[Path, ...]:
    """One or several, as they were given. Raises `ValueError`."""
    several = [ckpt_dir] if isinstance(ckpt_dir, str | os.PathLike) else ckpt_dir
    if not isinstance(several, Iterable) or isinstance(several, bytes):
        raise ValueError(f"`ckpt_dir` must be a path, or a list of paths, but is {ckpt_dir!r}.")
    several = list(several)
    if not several:
        raise ValueError("`ckpt_dir` must be a path, or several, but is an empty list.")
    for each in several:
        if not isinstance(each, str | os.PathLike):
            raise ValueError(f"`ckpt_dir` must be a path, or several, but one of them is {each!r}.")
    paths = tuple(Path(each) for each in several)
    if len(paths) == 1 and not is_glob(paths[0]):
        return paths
    # Otherwise their common folder is a matter of how each was written. `normpath` opens nothing, unlike `resolve`.
    return tuple(Path(os.path.normpath(each.absolute())) for each in paths)


def is_glob(path: Path) -> bool:
    return MAGIC.search(os.fspath(path)) is not None and not (seems_folder(path) or seems_file(path))


def _members(path: Path) -> Iterator[Path]:
    """What one of several stands for. Raises `CheckpointError` where that is nothing."""
    if not is_glob(path):
        if not (seems_folder(path) or seems_file(path)):
            raise CheckpointError(
                "no-checkpoints", f"`ckpt_dir=` must name folders or files that exist, but `{path}` is none."
            )
        yield path
        return
    if "**" in path.parts:
        raise ValueError(
            f"`ckpt_dir` must be a glob without `**`, but is `{path}`. Sub-folders are looked into anyway: give the "
            f"folder above."
        )
    found = list(_matching(Path(path.parts[0]), path.parts[1:]))
    if not found:
        raise CheckpointError("no-checkpoints", f"`ckpt_dir=` must match something, but `{path}` matches nothing.")
    yield from found


def _matching(folder: Path, parts: Sequence[str]) -> list[Path]:
    """In the order in which a shell lists them. What cannot be listed has no matches."""
    if not parts:
        return [folder]
    first, *rest = parts
    inner = folder / first
    if not MAGIC.search(first) or seems_folder(inner) or seems_file(inner):
        if rest:
            return _matching(inner, rest)
        return [inner] if seems_folder(inner) or seems_file(inner) else []
    names: list[str] = []
    with suppress(OSError):
        names = [each.name for each in entries_of(folder) if fnmatch.fnmatchcase(each.name, first)]
    # As in a shell, hidden ones only where the glob begins with a dot.
    visible = [name for name in names if first.startswith(".") or not name.startswith(".")]
    return [found for name in visible for found in _matching(folder / name, rest)]
