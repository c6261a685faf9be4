"""Which bytes of far checkpoints are read: of a file with optimiser states beside the weights, only the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ladle_engine.checkpoints.adapters.reader import AdapterReader
from ladle_engine.checkpoints.types import TensorReader
from ladle_engine.storage.far import presence
from ladle_engine.storage.far.presence import Range
from ladle_engine.storage.file_parts import FileParts
from ladle_engine.storage.hashed_file import LoadedFile
from ladle_engine.storage.input_file import BytesSource, Identity, InputFile


def fetch_weights(readers: Sequence[TensorReader]) -> None:
    """Fetches what these readers will read, at once and with progress. Nothing where all is local."""
    if not presence.is_far():
        return
    wanted: dict[Path, list[Range]] = {}
    for reader in readers:
        # What an adapter looks like is computed from all of them: noted is what is read of its own file.
        stored = reader.adapter.weights if isinstance(reader, AdapterReader) else reader
        places = [each if isinstance(each, LoadedFile) else _Places(each) for each in stored.files]
        noting = stored.through(places)
        for name in stored.tensors():
            noting.read(name)
        # The config of an adapter, which is a file of its reader too, has been read.
        for source, place in zip(stored.files, places, strict=True):
            if isinstance(place, _Places):
                # Those that a source of parts knows are counted from the first byte of its first part.
                ranges = source.ranges if isinstance(source, FileParts) else place.ranges
                wanted.setdefault(source.path, []).extend(ranges)
    presence.fetch({**wanted})
    for file in (each for reader in readers for each in reader.files):
        opened = file.file if isinstance(file, FileParts) else file
        if isinstance(opened, InputFile):
            opened.look_again()


class _Places:
    """Notes which bytes are asked for, and gives none: a reader's own way through a file, whatever the format."""

    def __init__(self, source: BytesSource) -> None:
        self._source = source
        self.ranges: list[Range] = []

    @property
    def path(self) -> Path:
        return self._source.path

    @property
    def identity(self) -> Identity:
        return self._source.identity

    @property
    def size(self) -> int:
        return self._source.size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if isinstance(self._source, FileParts):
            self.ranges += self._source.ranges_at(offset, len(buffer))
        else:
            self.ranges.append((offset, offset + len(buffer)))

    def read_gap_into(self, buffer: memoryview, offset: int) -> None:
        return
