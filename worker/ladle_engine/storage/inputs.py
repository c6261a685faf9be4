"""The files that a job is about: what they were when it began, and whether they still are that."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ladle_engine.errors import EngineError
from ladle_engine.progress import pulse
from ladle_engine.storage.hashed_file import HashedFile
from ladle_engine.storage.input_file import Identity, InputFile, changed


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

    def add_hashed(self, path: Path) -> None:
        """Reads a file whole. Raises as `InputFile`."""
        with InputFile(path) as file:
            self._files[path] = file.identity
            self._digests[path] = HashedFile(file).digest()

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
        is not looked at: they may hold a million files.
        """
        for group in (self._files, *(self._folders.values() if folders else ())):
            for path, identity in group.items():
                group[path] = self._still_the_same(path, identity)

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

    def _still_the_same(self, path: Path, identity: Identity) -> Identity:
        """Its identity now, which is another one where it was touched or copied."""
        try:
            found = Identity.of(path.stat())
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            raise changed(path, "is gone" if gone else f"cannot be reached any more: {error.strerror}") from error
        if found != identity and not self._holds_the_same(path, identity, found):
            raise changed(path, _how(identity, found))
        return found

    def _holds_the_same(self, path: Path, identity: Identity, found: Identity) -> bool:
        if found.size != identity.size or path not in self._digests:
            return False
        with InputFile(path) as file:
            return HashedFile(file).digest() == self._digests[path]


def _files_below(folder: Path) -> Iterator[tuple[Path, Identity]]:
    """In order of their names."""
    for place, folders, names in os.walk(folder):
        pulse()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place, name)
            # A link to nothing, and what was removed just now, is not there.
            with suppress(OSError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    yield path, Identity.of(status)


def _how(before: Identity, now: Identity) -> str:
    if before.size != now.size:
        return f"was {before.size:,} bytes long and is {now.size:,} now"
    if (before.device, before.inode) != (now.device, now.inode):
        return "was replaced by another file"
    return "was written to"
