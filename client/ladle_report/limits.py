"""How much of a report its page shows: as much as fits into 400 kB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_BYTES = 400_000
"""Of a page: what a mail or a chat takes, and a browser opens at once."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is more is put together, or left out, and the page says so."""

    side: int
    """Rows and columns of a heat map: neighbours become one cell, with their mean."""
    rows: int
    """Of a table."""
    points: int
    """Of a line."""
    chars: int
    """Of one text that somebody else wrote."""


FULL = Limits(side=48, rows=150, points=200, chars=600)
SMALLER = (
    FULL,
    Limits(side=36, rows=80, points=120, chars=400),
    Limits(side=24, rows=40, points=80, chars=200),
    Limits(side=12, rows=15, points=40, chars=80),
)


def blocks(count: int, most: int) -> list[range]:
    """`count` neighbours as at most `most` ranges of about one length."""
    number = min(count, most)
    edges = [round(index * count / number) for index in range(number + 1)] if number else []
    return [range(start, end) for start, end in pairwise(edges)]


def means(values: Sequence[float], ranges: Sequence[range]) -> list[float]:
    """One mean per range."""
    return [sum(values[each.start : each.stop]) / len(each) for each in ranges]


BETWEEN = " … "
"""Stands between the first and the last of some that are shown as one."""


def mean_blocks(
    matrix: Sequence[Sequence[float]], rows: Sequence[range], columns: Sequence[range]
) -> list[list[float]]:
    """The same of a matrix: one mean per range of rows and of columns."""
    narrow = [means(row, columns) for row in matrix]
    return [[sum(column) / len(each) for column in zip(*narrow[each.start : each.stop], strict=True)] for each in rows]


def ends(labels: Sequence[str], ranges: Sequence[range]) -> list[str]:
    """`step-1`, or `step-1 … step-5` for a range of several."""
    return [labels[each[0]] if len(each) == 1 else f"{labels[each[0]]}{BETWEEN}{labels[each[-1]]}" for each in ranges]


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def shorten(text: str, most: int) -> str:
    """A text cut in its middle, where names differ least."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def rounded(value: float | None, digits: int = 5) -> float | None:
    """For JSON: what a picture needs."""
    return None if value is None else float(f"{value:.{digits}g}")
