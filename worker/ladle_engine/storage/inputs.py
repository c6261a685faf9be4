"""The files that a job is about: what they were when it began, and whether they still are that."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ladle_engine.errors import EngineError
from ladle_engine.progress import pulse
from ladle_engine.storage.boundary import status
from ladle_engine.storage.far.presence import is_mirrored, refuse_far_changed
from ladle_engine.storage.hashed_file import HashedFile
from ladle_engine.storage.input_file import Identity, InputFile, changed
from ladle_engine.storage.input_paths import real_path, statuses_in


class Inputs:
    """Files by path, and folders with all that is below.

    A file that was only touched, or replaced by a copy of itself, is the same where its digest is known.
    """

    def __init__(self) -> None:
        self._files: dict[Path, Identity] = {}
        self._folders: dict[Path, dict[Path, Identity]] = {}
        self._digests: dict[Path, str] = {}

    @property
    def sizes(self) -> dict[Path, int]:
        """Of all files, those in folders too."""
        groups = (self._files, *self._folders.values())
        return {path: identity.size for group in groups for path, identity in group.items()}

    @property
    def digests(self) -> Mapping[Path, str]:
        """SHA-256 of the files that were read whole."""
        return self._digests

    def add(self, path: Path, identity: Identity) -> None:
        """A file that somebody else has opened."""
        self._files[path] = identity

    def add_all(self, others: Inputs) -> None:
        """All that others know."""
        self._files |= others._files
        self._folders |= others._folders
        self._digests |= others._digests

    def add_hashed(self, path: Path, expected: str | None = None) -> None:
        """Reads a file whole; `expected` is the digest of what was read of it before.

        Raises as `InputFile`, and `EngineError` (inputs-changed) for another digest.
        """
        with InputFile(path) as file:
            self._files[path] = file.identity
            self._digests[path] = HashedFile(file).digest()
        if expected not in (None, self._digests[path]):
            raise changed(path, "was written to while the job began")

    def add_folder(self, folder: Path) -> None:
        """All files below but hidden ones. None is opened."""
        self._folders[folder] = dict(_files_below(folder))

    def know(self, digests: Mapping[Path, str]) -> None:
        """The digests of what was read. Raises `EngineError` (inputs-changed) where another one is known."""
        for path, digest in digests.items():
            if self._digests.setdefault(path, digest) != digest:
                raise changed(path, "holds other bytes than those that were judged")

    def summary(self) -> dict[str, str]:
        """Each file with its size, each folder with a digest of the names and sizes in it."""
        sizes = {str(path): str(identity.size) for path, identity in self._files.items()}
        return sizes | {str(folder): self.listing_digest(folder) for folder in self._folders}

    def times(self) -> dict[str, str]:
        """Of each folder, a digest of when its files were last changed: they are known by nothing else."""
        return {str(folder): self.listing_digest(folder, with_times=True) for folder in self._folders}

    def listing_digest(self, folder: Path, *, with_times: bool = False) -> str:
        """SHA-256 of the names and sizes of all files in a folder that was added."""
        sha256 = hashlib.sha256()
        for path, identity in self._folders[folder].items():
            line = f"{path.relative_to(folder)} {tuple(identity) if with_times else identity.size}\n"
            sha256.update(line.encode(errors="surrogateescape"))
        return sha256.hexdigest()

    @property
    def folders(self) -> Collection[Path]:
        """Those that were added."""
        return self._folders.keys()

    def files_in(self, folder: Path) -> int:
        return len(self._folders[folder])

    def refuse_changed(self, *, folders: bool = True) -> None:
        """Raises `EngineError` (inputs-changed) naming the first file that is gone, or not the same any more.

        What was not there at the beginning does not count: nothing of it was read. Without `folders`, what is in them
        is not looked at: they may hold a million files. Nor are far files, of which a store is asked.
        """
        if folders:
            refuse_far_changed()
        for path, identity in self._files.items():
            self._files[path] = self._still_the_same(path, identity, _status_now(path))
        for files in self._folders.values() if folders else ():
            for path, found in _statuses_now(list(files)):
                files[path] = self._still_the_same(path, files[path], found)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Inside, what fails because a file is not what it was raises as `refuse_changed` does."""
        try:
            yield
        except Exception as error:
            try:
                self.refuse_changed()
            except EngineError as changed_file:
                raise changed_file from error
            raise

    def _still_the_same(self, path: Path, identity: Identity, now: os.stat_result) -> Identity:
        """Its identity now, which is another one where it was touched or copied."""
        found = Identity.of(now)
        if found != identity and not self._holds_the_same(path, identity, found):
            raise changed(path, _how(identity, found))
        return found

    def _holds_the_same(self, path: Path, identity: Identity, found: Identity) -> bool:
        if is_mirrored(path) and found[:3] == identity[:3]:
            # Bytes have come that another job wants. Whether the far file is the same, its store says.
            return True
        if found.size != identity.size or path not in self._digests:
            return False
        with InputFile(path) as file:
            return HashedFile(file).digest() == self._digests[path]


def _files_below(folder: Path) -> Iterator[tuple[Path, Identity]]:
    """In order of their names, those of a folder before its sub-folders'. What a link out of it leads to is none."""
    real_folder = real_path(folder)
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        pulse()
        folders: list[Path] = []
        # What cannot be listed is left to whoever wants to read it.
        with suppress(OSError):
            if not _is_new(status(place), seen):
                continue
            for path, found in _visible_in(place, real_folder):
                if stat.S_ISREG(found.st_mode):
                    yield path, Identity.of(found)
                elif stat.S_ISDIR(found.st_mode):
                    folders.append(path)
        waiting += reversed(folders)


def _is_new(found: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    """Links may lead to a folder once more, or to one that they are in."""
    identity = (found.st_dev, found.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _visible_in(place: Path, real_folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Of links, what they lead to inside of `real_folder`."""
    for name, found in statuses_in(place).items():
        path = place / name
        if name.startswith("."):
            continue
        if not stat.S_ISLNK(found.st_mode):
            yield path, found
        elif (target := real_path(path)).is_relative_to(real_folder):
            with suppress(OSError):
                yield path, status(target)


def _status_now(path: Path) -> os.stat_result:
    """Raises `EngineError` (inputs-changed) where there is none."""
    try:
        return status(path)
    except (OSError, EngineError) as error:
        raise changed(path, _why_none(error)) from error


def _statuses_now(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Raises the same. Folder by folder, because a path costs more than a name in a folder that is open."""
    for folder, inside in itertools.groupby(paths, key=lambda path: path.parent):
        try:
            statuses = statuses_in(folder)
        except (OSError, EngineError) as error:
            raise changed(folder, _why_none(error)) from error
        for path in inside:
            found = statuses.get(path.name)
            yield path, _status_now(path) if found is None or stat.S_ISLNK(found.st_mode) else found


def _why_none(error: OSError | EngineError) -> str:
    if isinstance(error, EngineError):
        return "has become a link that leads out of the allowed folders"
    return "is gone" if isinstance(error, FileNotFoundError) else f"cannot be reached any more: {error.strerror}"


def _how(before: Identity, now: Identity) -> str:
    if before.size != now.size:
        return f"was {before.size:,} bytes long and is {now.size:,} now"
    if (before.device, before.inode) != (now.device, now.inode):
        return "was replaced by another file"
    return "was written to"
