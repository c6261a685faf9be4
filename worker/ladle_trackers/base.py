"""What every tracker can be told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Value = str | int | float | bool
Cell = str | int | float | None
ODD = re.compile(r"[^A-Za-z0-9_. /-]+")


class CannotTrack(Exception):
    """A tracker cannot be used here: a sentence for people."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job as trackers know it."""

    project: str
    name: str
    id: str
    """Of the job. A later attempt of it goes on with the same run."""
    folder: Path
    """Where trackers that write files write them. Each has a folder of its own in it."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """What was asked for: `method.name` -> `twa`."""
    tags: Sequence[str] = ()


class Tracker(Protocol):
    """One run of one tracker. Any method may raise anything."""

    def numbers(self, series: str, values: Mapping[str, float], step: float) -> None:
        """Some numbers of a series at a step of its own: `train/twa`, `{"loss": 0.3}`, 5."""
        ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None: ...

    def summary(self, values: Mapping[str, Value]) -> None:
        """What came out, to compare runs by."""
        ...

    def report(self, markdown: str, files: Sequence[Path]) -> None:
        """The report in words, and files of the result."""
        ...

    def end(self, *, ok: bool) -> None:
        """All that was told is there, or has been sent."""
        ...


def plain(name: str) -> str:
    """A name as every tracker takes it."""
    return ODD.sub("_", name).strip("/ ")[:200] or "_"
