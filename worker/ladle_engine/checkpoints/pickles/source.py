"""The bytes of a pickle, read from its file from front to back: no pickle is in memory as a whole."""

from __future__ import annotations

from typing import Protocol

from ladle_engine.checkpoints.pickles.values import Malformed

WINDOW_BYTES = 256 << 10
MAX_NAME_CHARS = 1000
MAX_LINE_BYTES = 1 << 20


class Readable(Protocol):
    """Bytes by position."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class CutShort(Malformed):
    """The content ends before the pickle does."""


class Source:
    def __init__(self, file: Readable, start: int = 0, end: int | None = None) -> None:
        self.position = start
        self._file = file
        self._end = file.size if end is None else end
        self._window = b""
        self._base = start
        """Where the window begins."""

    def byte(self) -> int:
        at = self.position - self._base
        self.position += 1
        if at < len(self._window):
            return self._window[at]
        self.position -= 1
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        at = self.position - self._base
        if at + count > len(self._window):
            if self.position + count > self._end:
                raise CutShort("it ends in the middle of its pickle")
            self._look(count)
            at = 0
        self.position += count
        return self._window[at : at + count]

    def skip(self, count: int) -> None:
        if self.position + count > self._end:
            raise CutShort("it ends in the middle of its pickle")
        self.position += count
        self._window, self._base = b"", self.position

    def rest(self, most: int) -> bytes | None:
        """All of it up to its end, if that is not more than so much."""
        length = self._end - self.position
        return self._file.read(self.position, length) if length <= most else None

    def line(self, most: int = MAX_NAME_CHARS) -> bytes:
        """Up to a newline, which is left out."""
        at = self.position - self._base
        end = self._window.find(b"\n", at, at + most)
        if end < 0:
            self._look(min(most, self._end - self.position))
            at, end = 0, self._window.find(b"\n", 0, most)
        if end < 0:
            is_short = len(self._window) < most
            raise CutShort("it ends in a name") if is_short else Malformed("it has a name of endless length")
        self.position += end - at + 1
        return self._window[at:end]

    def _look(self, count: int) -> None:
        """Makes the window begin here, with so many bytes at least."""
        self._window = self._file.read(self.position, min(max(count, WINDOW_BYTES), self._end - self.position))
        self._base = self.position


class Held:
    """Bytes that are there already."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]
