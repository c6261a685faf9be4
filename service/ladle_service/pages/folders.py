"""What is in a folder inside the roots, page by page, for the folder browser. These functions block: use a thread.

It opens folders as the ranks open files: below a root that is held by its descriptor, and never through a link that
leads out. Hidden files are left out, and so is whatever is no file or folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ladle_contracts.roots import PathNotAllowed, Roots
from ladle_contracts.safe_text import one_line

PAGE = 100
MOST = 50_000
"""Entries of one folder that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file or folder."""

    name: str
    """Safe to show."""
    path: str | None
    """None for a name that a form cannot send: not UTF-8, or with a line break."""
    is_folder: bool
    size_bytes: int
    changed_at: datetime


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One page of a folder."""

    path: str
    above: tuple[tuple[str, str], ...]
    """Name and path of the root and of each folder down to this one."""
    entries: tuple[Entry, ...]
    wanted: str
    page: int
    pages: int
    total: int
    """Of entries that have `wanted` in their name."""
    is_cut: bool
    """Whether the folder has more than are looked at."""


def roots_there(roots: Sequence[Path]) -> dict[Path, bool]:
    """Whether this process sees each root."""
    return {root: root.is_dir() or root.is_file() for root in roots}


def list_folder(path: str, roots: Sequence[Path], *, wanted: str = "", page: int = 1) -> Listing:
    """The folder at a path; of a file the folder that it is in. Folders come first, and 2 before 10.

    Raises `PathNotAllowed` for what is missing or outside, and `OSError` where a disk does not answer.
    """
    if not path.startswith("/"):
        raise PathNotAllowed("a path must begin with a slash")
    with Roots(roots) as held:
        folder = held.resolve(path)
        if not stat.S_ISDIR(held.status(folder).st_mode):
            folder = held.resolve(folder.parent)
        descriptor = held.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found, is_cut = _scan(descriptor, wanted)
            pages = max(1, -(-len(found) // PAGE))
            page = min(max(1, page), pages)
            shown = found[(page - 1) * PAGE : page * PAGE]
            entries = tuple(entry for name in shown for entry in _entries(held, descriptor, folder, name))
        finally:
            os.close(descriptor)
    return Listing(
        path=str(folder),
        above=tuple(_above(folder, roots)),
        entries=entries,
        wanted=wanted,
        page=page,
        pages=pages,
        total=len(found),
        is_cut=is_cut,
    )


def can_be_sent(text: str) -> bool:
    """Whether a line of a form holds it as it is."""
    return text == text.strip() and one_line(text) == text


def _scan(descriptor: int, wanted: str) -> tuple[list[str], bool]:
    """The names in order, and whether there are more."""
    found: list[tuple[bool, list[int | str], str]] = []
    with os.scandir(descriptor) as entries:
        for number, entry in enumerate(entries):
            if number == MOST:
                return [name for *_, name in sorted(found)], True
            is_file = entry.is_file(follow_symlinks=False)
            if not entry.name.startswith(".") and wanted.casefold() in entry.name.casefold():
                # A link most often leads to a folder, such as `latest`. What it leads to is looked at on its page.
                found.append((is_file, _natural(entry.name), entry.name))
    return [name for *_, name in sorted(found)], False


def _natural(name: str) -> list[int | str]:
    """`step-2` before `step-10`."""
    return [int(part) if number else part.casefold() for number, part in _numbered(name)]


def _numbered(name: str) -> Iterator[tuple[bool, str]]:
    for index, part in enumerate(re.split(r"([0-9]+)", name)):
        yield index % 2 == 1, part


def _entries(held: Roots, descriptor: int, folder: Path, name: str) -> Iterator[Entry]:
    """One, or none for what has gone meanwhile, is neither file nor folder, or leads out of the roots."""
    try:
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            status = held.status(folder / name)
    except (OSError, PathNotAllowed, ValueError):
        return
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder or stat.S_ISREG(status.st_mode):
        path = str(folder / name)
        yield Entry(
            name=one_line(name),
            path=path if can_be_sent(path) else None,
            is_folder=is_folder,
            size_bytes=status.st_size,
            changed_at=moment(status.st_mtime),
        )


def moment(seconds: float) -> datetime:
    """A file's time. Some file systems have years that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC)
    except (OSError, OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC) if seconds > 0 else datetime.min.replace(tzinfo=UTC)


def _above(folder: Path, roots: Sequence[Path]) -> Iterator[tuple[str, str]]:
    inside = [Path(os.path.realpath(root)) for root in roots]
    for place in reversed([folder, *folder.parents]):
        if any(place.is_relative_to(root) for root in inside):
            yield one_line(str(place) if place in inside else place.name), str(place)
