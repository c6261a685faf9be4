"""Parts of a file, as if there were nothing else in it: the bytes that are read are those that are hashed."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import Identity, ReadableFile, changed


class FileParts:
    """Some ranges of a file, one after the other. Positions count from the first byte of the first range.

    Several threads may read. The digest of this source is that of the parts, not of the file.
    """

    def __init__(self, file: ReadableFile, ranges: Iterable[Range]) -> None:
        """The ranges are put in order; those that touch or overlap become one."""
        self.path = file.path
        self.file = file
        self.ranges = _joined(ranges)
        lengths = (stop - start for start, stop in self.ranges)
        self._starts = [0, *itertools.accumulate(lengths)]
        """Of each range, where it begins here."""

    @property
    def identity(self) -> Identity:
        return self.file.identity

    @property
    def size(self) -> int:
        return self._starts[-1]

    def position_of(self, offset: int) -> int:
        """Where a byte of the file is here, which must be in one of the ranges."""
        number = bisect_right(self.ranges, (offset, self.file.size)) - 1
        return self._starts[number] + offset - self.ranges[number][0]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills all of `buffer`. Raises as `InputFile.read_into`."""
        for start, stop in self.ranges_at(offset, len(buffer)):
            self.file.read_into(buffer[: stop - start], start)
            buffer = buffer[stop - start :]

    def read_gap_into(self, buffer: memoryview, offset: int) -> None:
        """The same for what only a digest is made of."""
        for start, stop in self.ranges_at(offset, len(buffer)):
            self.file.read_gap_into(buffer[: stop - start], start)
            buffer = buffer[stop - start :]

    def ranges_at(self, offset: int, length: int) -> Iterator[Range]:
        """Where in the file so many bytes from a position here on are. Raises as `InputFile.read_into`."""
        if offset + length > self.size:
            raise changed(self.path, "has become shorter")
        number = bisect_right(self._starts, offset) - 1
        while length:
            start, stop = self.ranges[number]
            start += offset - self._starts[number]
            stop = min(stop, start + length)
            yield start, stop
            offset, length, number = offset + stop - start, length - (stop - start), number + 1

    def read(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self.read_into(memoryview(content), offset)
        return bytes(content)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        elif start < stop:
            joined.append((start, stop))
    return joined
