"""SHA-256 of a file while it is read, so that the bytes that were used are those that were hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ladle_engine.storage.input_file import BytesSource, Identity, ReadableFile

Range = tuple[int, int]
"""From a byte to, and not including, another."""

GAP_BYTES = 1 << 20
"""What is read at once of what nobody asked for: headers, padding, tensors that are passed over."""


class HashedFile:
    """Reads a file, and hashes each byte when it is read for the first time.

    A digest goes from the front to the back. What is asked for in that order is read once; what lies in between is read
    when something behind it is asked for, and may be read again. One thread at a time.
    """

    def __init__(self, source: BytesSource, ranges: Collection[Range] = ()) -> None:
        """Each of `ranges` gets a digest of its own besides."""
        self.path = source.path
        self.identity = source.identity
        self.size = source.size
        self._source = source
        self._sha256 = hashlib.sha256()
        self._of_range = {each: hashlib.sha256() for each in ranges}
        self._hashed = 0
        """How many bytes from the front."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self._hash_up_to(offset)
        self._source.read_into(buffer, offset)
        self._hash(buffer[self._hashed - offset :])

    def read_gap_into(self, buffer: memoryview, offset: int) -> None:
        self.read_into(buffer, offset)

    def digest(self) -> str:
        """Of the whole file, in hexadecimal; reads what is left of it."""
        self._hash_up_to(self.size)
        return self._sha256.hexdigest()

    def range_digest(self, each: Range) -> str:
        """Of one of `ranges`, in hexadecimal, once `digest` was called."""
        return self._of_range[each].hexdigest()

    def _hash_up_to(self, offset: int) -> None:
        gap = memoryview(bytearray(min(GAP_BYTES, max(offset - self._hashed, 0))))
        while self._hashed < offset:
            part = gap[: offset - self._hashed]
            self._source.read_gap_into(part, self._hashed)
            self._hash(part)

    def _hash(self, content: memoryview) -> None:
        self._sha256.update(content)
        for (start, stop), sha256 in self._of_range.items():
            # A slice that would begin or end outside of the content is cut there.
            sha256.update(content[max(start - self._hashed, 0) : max(stop - self._hashed, 0)])
        self._hashed += len(content)


@dataclass(frozen=True, kw_only=True)
class LoadedFile:
    """A file that was read whole, for a format that does not tell where things stand in it."""

    path: Path
    identity: Identity
    size: int
    sha256: str

    def read_into(self, buffer: memoryview, offset: int) -> None:
        raise AssertionError("what it holds is in memory")

    def read_gap_into(self, buffer: memoryview, offset: int) -> None:
        raise AssertionError("what it holds is in memory")

    def digest(self) -> str:
        return self.sha256

    def close(self) -> None:
        return


def load_whole(file: ReadableFile) -> tuple[bytes, LoadedFile]:
    """A file's content, and what stands for the file from then on."""
    content = file.read(0, file.size)
    sha256 = hashlib.sha256(content).hexdigest()
    return content, LoadedFile(path=file.path, identity=file.identity, size=file.size, sha256=sha256)
