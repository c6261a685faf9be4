"""A matrix as coloured cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ladle_report.drawing.svg import WIDTH, drawing, short, tag, text
from ladle_report.limits import BETWEEN, shorten, spread

LEFT_MOST, RIGHT, TOP = 205, 16, 8
CHAR = 6.6
LEGEND = 190
DIVERGING = (*(f"n{index}" for index in range(6, 0, -1)), "z", *(f"p{index}" for index in range(1, 7)))
SEQUENTIAL = tuple(f"s{index}" for index in range(10))
"""Classes of the palette."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """From values to classes of the palette."""

    low: float
    high: float
    is_diverging: bool

    @property
    def classes(self) -> Sequence[str]:
        """From the lowest to the highest."""
        return DIVERGING if self.is_diverging else SEQUENTIAL

    def __call__(self, value: float) -> str:
        classes, span = self.classes, self.high - self.low
        share = (value - self.low) / span if span else 0.5 if self.is_diverging else 0.0
        return classes[max(0, min(len(classes) - 1, int(share * len(classes))))]


def diverging(values: Iterable[float], limit: float | None = None) -> Colours:
    """Orange below zero, blue above; the same on both sides."""
    most = limit or max((abs(value) for value in values), default=0.0) or 1.0
    return Colours(low=-most, high=most, is_diverging=True)


def sequential(values: Iterable[float]) -> Colours:
    """From pale to dark, or the reverse on a dark page."""
    known = list(values) or [0.0]
    return Colours(low=min(known), high=max(known), is_diverging=False)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A matrix with the names of its rows and columns. None is an empty cell."""

    values: Sequence[Sequence[float | None]]
    rows: Sequence[str]
    columns: Sequence[str]
    columns_are: str
    """What stands below the columns."""

    @property
    def known(self) -> list[float]:
        """All numbers in it."""
        return [value for row in self.values for value in row if value is not None]


def heatmap(
    name: str,
    words: tuple[str, str],
    cells: Cells,
    colours: Colours,
    show: Callable[[float], str],
    legend: str,
) -> Markup:
    """`words` are title and description. Numbers stand in the cells where there is room."""
    grid = _Grid.of(cells)
    parts = [*_areas(grid, cells, colours), *_row_names(grid, cells), *_column_names(grid, cells)]
    if grid.cell >= 38 and grid.row >= 17:
        parts += _numbers(grid, cells, colours, show)
    bottom = grid.bottom + 42
    parts += _legend(colours, show, legend, grid.left, bottom)
    return drawing(name, *words, bottom + 40, parts)


@dataclass(frozen=True, kw_only=True)
class _Grid:
    left: float
    cell: float
    row: float
    bottom: float

    @classmethod
    def of(cls, cells: Cells) -> _Grid:
        longest = max((len(name) for name in cells.rows), default=0)
        left = min(LEFT_MOST, longest * CHAR + 14)
        cell = min(58.0, (WIDTH - left - RIGHT) / max(1, len(cells.columns)))
        row = max(5.0, min(26.0, cell, 560 / max(1, len(cells.rows))))
        row = max(row, 15.0) if len(cells.rows) <= 40 else row
        return cls(left=left, cell=cell, row=row, bottom=TOP + row * len(cells.rows))


def _areas(grid: _Grid, cells: Cells, colours: Colours) -> list[Markup]:
    """One path per colour: a thousand cells are a few kilobytes."""
    gap = 1.0 if min(grid.cell, grid.row) >= 12 else 0.0
    found: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(cells.values):
        y, height = TOP + number * grid.row, grid.row - gap
        for class_, start, end in _runs(row, colours, is_merging=not gap):
            x, width = grid.left + start * grid.cell, (end - start) * grid.cell - gap
            found[class_].append(f"M{short(x)} {short(y)}h{short(width)}v{short(height)}h-{short(width)}z")
    return [tag("path", d="".join(found[class_]), class_=f"f-{class_}") for class_ in sorted(found)]


def _runs(row: Sequence[float | None], colours: Colours, *, is_merging: bool) -> list[tuple[str, int, int]]:
    runs: list[tuple[str, int, int]] = []
    for index, value in enumerate(row):
        if value is None:
            continue
        class_ = colours(value)
        if is_merging and runs and runs[-1][0] == class_ and runs[-1][2] == index:
            runs[-1] = (class_, runs[-1][1], index + 1)
        else:
            runs.append((class_, index, index + 1))
    return runs


def _row_names(grid: _Grid, cells: Cells) -> list[Markup]:
    shown = spread(len(cells.rows), max(2, int(len(cells.rows) * grid.row / 14)))
    most = int((grid.left - 14) / CHAR)
    return [
        text(grid.left - 8, TOP + (index + 0.5) * grid.row + 4, shorten(cells.rows[index], most), "end", "tick")
        for index in shown
    ]


def _column_names(grid: _Grid, cells: Cells) -> list[Markup]:
    longest = max((len(_first(name)) for name in cells.columns), default=1) * CHAR + 10
    most = max(1, int(len(cells.columns) * grid.cell / longest))
    shown = range(0, len(cells.columns), -(-len(cells.columns) // most))
    middle = grid.left + len(cells.columns) * grid.cell / 2
    # Of columns that are put together the first one has the name.
    names = [
        text(grid.left + (index + 0.5) * grid.cell, grid.bottom + 15, _first(cells.columns[index]), "middle", "tick")
        for index in shown
    ]
    return [*names, text(middle, grid.bottom + 32, cells.columns_are, "middle", "label")]


def _first(label: str) -> str:
    return label.partition(BETWEEN)[0]


def _numbers(grid: _Grid, cells: Cells, colours: Colours, show: Callable[[float], str]) -> list[Markup]:
    return [
        text(
            grid.left + (column + 0.5) * grid.cell - 0.5,
            TOP + (number + 0.5) * grid.row + 3.5,
            show(value),
            "middle",
            f"cell on-{colours(value)}",
        )
        for number, row in enumerate(cells.values)
        for column, value in enumerate(row)
        if value is not None
    ]


def _legend(colours: Colours, show: Callable[[float], str], legend: str, left: float, y: float) -> list[Markup]:
    classes = colours.classes
    left = max(8.0, min(left, WIDTH - LEGEND - 24 - len(legend) * CHAR))
    width = LEGEND / len(classes)
    boxes = [
        tag("rect", x=left + index * width, y=y, width=width + 0.3, height=10, class_=f"f-{class_}")
        for index, class_ in enumerate(classes)
    ]
    ends = [(colours.low, "start"), (colours.high, "end")]
    marks = [
        text(left + (LEGEND if anchor == "end" else 0), y + 24, show(value), anchor, "tick") for value, anchor in ends
    ]
    zero = [text(left + LEGEND / 2, y + 24, "0", "middle", "tick")] if colours.is_diverging else []
    return [*boxes, *marks, *zero, text(left + LEGEND + 14, y + 9, legend, "start", "label")]
