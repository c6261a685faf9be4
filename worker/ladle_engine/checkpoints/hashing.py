"""Digests of checkpoints' files, made while their tensors are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ladle_engine.checkpoints.types import TensorReader
from ladle_engine.storage.hashed_file import HashedFile, LoadedFile
from ladle_engine.storage.input_file import BytesSource


class HashedReaders:
    """Readers of the same checkpoints that hash what they read. One thread at a time."""

    def __init__(
        self, readers: Sequence[TensorReader], hashed: Collection[Path] | None = None, watched: Collection[str] = ()
    ) -> None:
        """`hashed` are the files that are, all when absent. The tensors `watched` get digests of their own."""
        self._watched = [
            {name: reader.extent(name) for name in watched if name in reader.tensors()} for reader in readers
        ]
        self.readers: list[TensorReader] = []
        for reader, extents in zip(readers, self._watched, strict=True):
            found = [extent for extent in extents.values() if extent is not None]
            sources = [
                _hashing(source, {place for number, place in found if number == file}, hashed)
                for file, source in enumerate(reader.files)
            ]
            self.readers.append(reader.through(sources))

    def digests(self) -> dict[Path, str]:
        """SHA-256 of each file that is hashed. What was not asked for is read now."""
        return {
            source.path: source.digest()
            for reader in self.readers
            for source in reader.files
            if isinstance(source, HashedFile | LoadedFile)
        }

    def tensor_digest(self, checkpoint: int, name: str) -> str | None:
        """SHA-256 of a watched tensor's bytes, after `digests`; None where its file is not hashed, or its numbers do
        not stand there in order."""
        extent = self._watched[checkpoint][name]
        if extent is None:
            return None
        source = self.readers[checkpoint].files[extent[0]]
        return source.range_digest(extent[1]) if isinstance(source, HashedFile) else None


def _hashing(source: BytesSource, ranges: Collection[tuple[int, int]], hashed: Collection[Path] | None) -> BytesSource:
    if isinstance(source, LoadedFile) or (hashed is not None and source.path not in hashed):
        return source
    return HashedFile(source, ranges)
