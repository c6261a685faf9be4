"""Whether the bytes of a mirrored file are here: asked before each reading, so that a hole is never read as zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    def is_mirrored(self, path: Path) -> bool:
        """Whether it is a far file's: more of its bytes may come at any time, and another version is another file."""
        ...

    def fetch(self, wanted: Mapping[Path, Parts | None]) -> None:
        """The same for many files at once, with progress. `None` is a whole file."""
        ...

    def refuse_changed(self) -> None:
        """Raises `EngineError` (inputs-changed) where a far file is not what it was."""
        ...

    def record(self) -> dict[str, str]:
        """Address -> version of each far file that was read, for the report."""
        ...


_sources: list[Source] = []


@contextmanager
def installed(source: Source) -> Iterator[None]:
    """Inside, whoever reads in this process asks it first."""
    _sources.append(source)
    try:
        yield
    finally:
        _sources.remove(source)


def is_far() -> bool:
    """Whether anything that is read here may be far."""
    return bool(_sources)


def want(path: Path, start: int = 0, stop: int | None = None) -> None:
    """See `Source.want`."""
    for source in _sources:
        source.want(path, start, stop)


def parts_of(path: Path) -> Parts | None:
    return next((parts for source in _sources if (parts := source.parts(path)) is not None), None)


def is_mirrored(path: Path) -> bool:
    return any(source.is_mirrored(path) for source in _sources)


def fetch(wanted: Mapping[Path, Parts | None]) -> None:
    for source in _sources:
        source.fetch(wanted)


def refuse_far_changed() -> None:
    for source in _sources:
        source.refuse_changed()


def far_record() -> dict[str, str]:
    return {url: tag for source in _sources for url, tag in source.record().items()}


def merged(ranges: Sequence[Range]) -> list[Range]:
    """In order, those that touch each other as one."""
    found: list[Range] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found
