"""What a report consists of, before it is HTML or Markdown. Words may have `code` in backticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells; the first cell of a row names it."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """The row that stands out."""
    note: str = ""
    """What was left out, and where it is."""
    is_open: bool = False
    """Whether a page shows it at once. Behind a figure it never does."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture with all that is needed to read it, and to do without it."""

    name: str
    """In the page's addresses and in its JSON: `candidates`."""
    title: str
    reading: str
    """One or two sentences on how to read it."""
    picture: Markup
    table: Table
    data: Mapping[str, Any]
    """The numbers that are drawn, as JSON."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Something to copy."""

    title: str
    language: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with what is known of them."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A sentence that nobody should miss."""

    text: str
    is_warning: bool = False


Part = str | Figure | Table | Code | Facts | Remark
"""A `str` is a paragraph."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One of the eight parts of a report."""

    name: str
    title: str
    parts: Sequence[Part] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """Those of its parts that are pictures."""
        return [part for part in self.parts if isinstance(part, Figure)]
