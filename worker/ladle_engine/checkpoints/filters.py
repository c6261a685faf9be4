"""Which of the checkpoints found are wanted: `pattern`, `exclude`, `like`, `steps`, `last` and names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ladle_engine.checkpoints.order import ORDERS


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Raises `ValueError` where one breaks its rule."""

    pattern: str | None = None
    exclude: str | Sequence[str] | None = None
    last: int | None = None
    steps: Sequence[int | float] | None = None
    order: str = "auto"
    like: str | None = None

    def __post_init__(self) -> None:
        if self.pattern is not None and not isinstance(self.pattern, str):
            raise ValueError(f"`pattern` must be a text, but is {self.pattern!r}.")
        if self.exclude is not None and not (isinstance(self.exclude, str) or _are(str, self.exclude)):
            raise ValueError(f"`exclude` must be a text or several, but is {self.exclude!r}.")
        if self.like is not None and not isinstance(self.like, str):
            raise ValueError(f"`like` must be the name of a checkpoint, but is {self.like!r}.")
        if self.steps is not None and not _are((int, float), self.steps):
            raise ValueError(f"`steps` must be a list of whole numbers, but is {self.steps!r}.")
        if self.last is not None and not _is(int, self.last):
            raise ValueError(f"`last` must be a whole number, but is {self.last!r}.")
        if self.last is not None and self.last < 1:
            raise ValueError(f"`last` must be at least 1, but is {self.last}.")
        if self.order not in ORDERS:
            raise ValueError(f"`order` must be one of {', '.join(ORDERS)}, but is {self.order!r}.")

    @property
    def excluded(self) -> tuple[str, ...]:
        """The globs of `exclude`."""
        if self.exclude is None:
            return ()
        return (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)

    def matches(self, name: str) -> bool:
        """Whether `pattern` takes a name."""
        return self.pattern is None or _matches(name, self.pattern)

    def wants(self, name: str) -> bool:
        """Whether `pattern` takes a name and `exclude` does not."""
        return self.matches(name) and not any(_matches(name, glob) for glob in self.excluded)

    def idle(self, names: Sequence[str]) -> list[str]:
        """The globs of `exclude` that match none of the names."""
        return [glob for glob in self.excluded if not any(_matches(name, glob) for name in names)]


def _matches(name: str, glob: str) -> bool:
    """A glob of a folder takes what lies in the folder too, and one of a file or a checkpoint takes it in each run."""
    path = PurePosixPath(name)
    names = (name, path.name, *(parent.as_posix() for parent in path.parents))
    return any(fnmatch.fnmatchcase(each, glob.rstrip("/")) for each in names if each != ".")


def _are(kind: type | tuple[type, ...], values: object) -> bool:
    return isinstance(values, Iterable) and not isinstance(values, str) and all(_is(kind, each) for each in values)


def _is(kind: type | tuple[type, ...], value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
