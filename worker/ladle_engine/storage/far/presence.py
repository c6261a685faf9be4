"""Whether the bytes of a mirrored file are here: asked before each reading, so that a hole is never read as zeros."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Range = tuple[int, int]
"""From a byte to, and not including, another."""
Parts = Sequence[Range]


class Source(Protocol):
    """What knows a mirror."""

    def want(self, path: Path, start: int, stop: int | None) -> None:
        """Returns when these bytes are here; `None` is the end of the file. Paths elsewhere are always here.

        Raises `EngineError`.
        """
        ...

    def parts(self, path: Path) -> Parts | None:
        """Of a file of which only parts are read: those. None for a whole one."""
        ...

    def fetch(self, wanted: dict[Path, Parts | None]) -> None:
        """The same for many files at once, with progress. `None` is a whole file."""
        ...

    def refuse_changed(self) -> None:
        """Raises `EngineError` (inputs-changed) where a far file is not what it was."""
        ...

    def record(self) -> dict[str, str]:
        """Address -> version of each far file that was read, for the report."""
        ...


_source: Source | None = None


def install(source: Source | None) -> Source | None:
    """For all threads of this process from now on. Returns what was installed before."""
    global _source
    before, _source = _source, source
    return before


def source() -> Source | None:
    return _source


def want(path: Path, start: int = 0, stop: int | None = None) -> None:
    """See `Source.want`."""
    if _source is not None:
        _source.want(path, start, stop)


def parts_of(path: Path) -> Parts | None:
    return None if _source is None else _source.parts(path)


def refuse_far_changed() -> None:
    if _source is not None:
        _source.refuse_changed()


def far_record() -> dict[str, str]:
    return {} if _source is None else _source.record()


def merged(ranges: Sequence[Range]) -> list[Range]:
    """In order, those that touch each other as one."""
    found: list[Range] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found
