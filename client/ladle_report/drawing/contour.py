"""A function on a plane as bands of colour, with points on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from ladle_report.drawing.lines import mark
from ladle_report.drawing.svg import WIDTH, Frame, Scale, drawing, group, short, tag, text

LEFT, RIGHT, TOP, BOTTOM = 64, 150, 30, 48
MOST_HEIGHT, LEAST_SIDE = 440.0, 150.0
BANDS = 10
FINER = 4
"""Cells between two points of the grid: losses are smooth, and eleven points a side are few."""

Grid = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A point with a name. A small one is a checkpoint, beside which only its number stands."""

    x: float
    y: float
    label: str
    shape: str
    look: str
    is_small: bool = False


@dataclass(frozen=True, kw_only=True)
class Land:
    """What is drawn: values at `x` and `y`, rows from low to high y."""

    x: Sequence[float]
    y: Sequence[float]
    values: Grid
    spots: Sequence[Spot]


def contour_map(
    name: str, words: tuple[str, str], land: Land, labels: tuple[str, str, str], show: Callable[[float], str]
) -> Markup:
    """`labels` are those of x, y and the values."""
    frame = _frame(land)
    fine = finer(land.values)
    levels = levels_of(fine)
    frame.x_axis(labels[0], _number)
    frame.y_axis(labels[1], _number)
    # The bands cover the lines of the axes, whose numbers stay.
    parts = [*frame.parts, *_bands(frame, fine, levels), *_legend(frame, levels, labels[2], show)]
    spots = [spot for spot in land.spots if _is_inside(spot, land)]
    return drawing(name, *words, frame.bottom + BOTTOM, [*parts, *_spots(frame, spots)])


def _frame(land: Land) -> Frame:
    """To scale, unless one side would be very short."""
    wide, high = land.x[-1] - land.x[0], land.y[-1] - land.y[0]
    room = WIDTH - LEFT - RIGHT
    unit = min(room / (wide or 1.0), MOST_HEIGHT / (high or 1.0))
    width, height = max(wide * unit, LEAST_SIDE), max(high * unit, LEAST_SIDE)
    x = Scale(land.x[0], land.x[-1], LEFT, LEFT + width)
    return Frame(x=x, y=Scale(land.y[0], land.y[-1], TOP + height, TOP))


def finer(values: Grid) -> list[list[float]]:
    """The same with points in between, on smooth curves (Catmull and Rom's) through those that are there."""
    rows = [_finer_row(row) for row in values]
    columns = [_finer_row(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _finer_row(row: Sequence[float]) -> list[float]:
    found = []
    for index in range(len(row) - 1):
        a, b, c, d = (row[max(0, min(len(row) - 1, index + offset))] for offset in (-1, 0, 1, 2))
        for number in range(FINER):
            t = number / FINER
            curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
            # A curve through a steep rise swings over: no value is outside of its neighbours'.
            found.append(max(min(a, b, c, d), min(max(a, b, c, d), curve)))
    return [*found, row[-1]]


def levels_of(values: Grid) -> list[float]:
    """The lower ends of the bands: close together where the values are low, since that is what one looks for."""
    low, high = min(map(min, values)), max(map(max, values))
    return [low + (high - low) * (index / BANDS) ** 2 for index in range(BANDS)]


def _bands(frame: Frame, values: Grid, levels: Sequence[float]) -> list[Markup]:
    """From the lowest up, each over those below it."""
    area = f"M{short(frame.left)} {short(frame.top)}H{short(frame.right)}V{short(frame.bottom)}H{short(frame.left)}z"
    parts = [tag("path", d=area, class_="f-s0")]
    if levels[-1] <= levels[0]:
        return parts
    for index, level in enumerate(levels[1:], start=1):
        parts.append(tag("path", d=_above(frame, values, level), class_=f"f-s{index} edge"))
    return parts


def _above(frame: Frame, values: Grid, level: float) -> str:
    """The area where values are at least `level`, cell by cell."""
    xs = _between(frame.left, frame.right, len(values[0]))
    ys = _between(frame.bottom, frame.top, len(values))
    pieces: list[str] = []
    for low, high, y0, y1 in zip(values, values[1:], ys, ys[1:], strict=False):
        start: float | None = None
        for index, (x0, x1) in enumerate(pairwise(xs)):
            corners = [(x0, y0, low[index]), (x1, y0, low[index + 1]), (x1, y1, high[index + 1]), (x0, y1, high[index])]
            inside = sum(value >= level for _, _, value in corners)
            if inside == 4:
                start = x0 if start is None else start
                continue
            if start is not None:
                pieces.append(_box(start, x0, y0, y1))
                start = None
            if inside:
                pieces.append(_polygon(_cut(corners, level)))
        if start is not None:
            pieces.append(_box(start, xs[-1], y0, y1))
    return "".join(pieces) or "M0 0"


def _between(start: float, end: float, count: int) -> list[float]:
    return [start + (end - start) * index / (count - 1) for index in range(count)]


def _box(x0: float, x1: float, y0: float, y1: float) -> str:
    return f"M{short(x0)} {short(y0)}H{short(x1)}V{short(y1)}H{short(x0)}z"


def _polygon(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points) + "z"


def _cut(corners: Sequence[tuple[float, float, float]], level: float) -> list[tuple[float, float]]:
    """The part of a cell above a level: its corners there, and where its edges cross the level."""
    found = []
    for (x0, y0, one), (x1, y1, other) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if one >= level:
            found.append((x0, y0))
        if (one >= level) != (other >= level):
            t = (level - one) / (other - one)
            found.append((x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
    return found


def _legend(frame: Frame, levels: Sequence[float], label: str, show: Callable[[float], str]) -> list[Markup]:
    """The bands upright at the right, each with the value at which it begins."""
    x, height = frame.right + 24, min(220.0, frame.bottom - frame.top - 20)
    box = height / len(levels)
    bottom = frame.top + 20 + height
    parts = [text(x, frame.top + 6, label, "start", "label")]
    for index, level in enumerate(levels):
        y = bottom - (index + 1) * box
        parts.append(tag("rect", x=x, y=y, width=16, height=box + 0.3, class_=f"f-s{index}"))
        if index % 3 == 0:
            parts.append(text(x + 22, y + box + 3, show(level), "start", "tick"))
    return parts


def _is_inside(spot: Spot, land: Land) -> bool:
    return land.x[0] <= spot.x <= land.x[-1] and land.y[0] <= spot.y <= land.y[-1]


def _spots(frame: Frame, spots: Sequence[Spot]) -> list[Markup]:
    """The named ones on top. Their names are moved apart where they would touch."""
    parts = []
    taken: list[tuple[float, float, float]] = []
    for spot in sorted(spots, key=lambda spot: not spot.is_small):
        x, y = frame.x(spot.x), frame.y(spot.y)
        size = 3.0 if spot.is_small else 6.5
        parts.append(mark(spot.shape, x, y, f"m-{spot.look} spot", size))
    for spot in sorted(spots, key=lambda spot: spot.is_small):
        x, y = frame.x(spot.x), frame.y(spot.y)
        room = 9.0 if spot.is_small else 15.0
        place = _free(x, y + 4, taken, room)
        if place is None:
            continue
        taken.append((*place, room))
        parts.append(
            text(
                place[0] + (6 if spot.is_small else 11),
                place[1],
                spot.label,
                "start",
                "halo" if spot.is_small else "halo strong",
            )
        )
    return [group(parts)]


def _free(x: float, y: float, taken: Sequence[tuple[float, float, float]], room: float) -> tuple[float, float] | None:
    """Where a name of this height touches no other: beside its spot, or a little above or below."""
    for moved in (0.0, -room, room, -2 * room, 2 * room):
        if all(abs(y + moved - other) >= max(room, high) - 0.5 or abs(x - there) > 75 for there, other, high in taken):
            return x, y + moved
    return None


def _number(value: float) -> str:
    return f"{value:.3g}"
