"""Lines over steps, with their names at their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ladle_report.drawing.svg import WIDTH, Frame, drawing, group, join, path, scale_of, tag, text
from ladle_report.limits import shorten

LEFT, TOP, BOTTOM = 64, 30, 48
HEIGHT = 300
CHAR = 6.9

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line. `look` is a class of the palette, such as `c1`, with `thin`, `dashed` or `faint`."""

    label: str
    """At its end; none if empty."""
    points: Sequence[Point | None]
    """None is a gap."""
    look: str
    marks: str = ""
    """The shape of a mark at each point: `circle`, `square`, `triangle`; none if empty."""
    hollow: Sequence[bool] = ()
    """For each point, whether its mark is hollow."""

    @property
    def known(self) -> list[Point]:
        """Without gaps."""
        return [point for point in self.points if point is not None]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A value to compare with: a line across, or down with `is_upright`."""

    value: float
    label: str
    look: str = "muted"
    is_upright: bool = False


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What the two axes count, and how their numbers are written."""

    x: str
    y: str
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]
    x_ticks: Sequence[float] | None = None


def line_chart(
    name: str,
    words: tuple[str, str],
    axes: Axes,
    lines: Sequence[Line],
    levels: Sequence[Level] = (),
    height: float = HEIGHT,
) -> Markup:
    """`words` are title and description."""
    labels = [each.label for each in lines] + [each.label for each in levels if not each.is_upright]
    right = min(190, max((len(shorten(label, 26)) for label in labels), default=0) * CHAR + 18)
    points = [point for line in lines for point in line.known]
    across = [each.value for each in levels if not each.is_upright]
    x = scale_of([point[0] for point in points], LEFT, WIDTH - max(right, 20), pad=0.02)
    y = scale_of([*(point[1] for point in points), *across], height - BOTTOM, TOP, pad=0.07)
    frame = Frame(x=x, y=y)
    frame.y_axis(axes.y, axes.show_y)
    frame.x_axis(axes.x, axes.show_x, axes.x_ticks)
    frame.parts.extend([_level(frame, each) for each in levels])
    frame.parts.extend([_line(frame, each, axes) for each in lines])
    frame.parts.extend(_end_labels(frame, lines, [each for each in levels if not each.is_upright]))
    return drawing(name, *words, height, frame.parts)


def _level(frame: Frame, level: Level) -> Markup:
    if not level.is_upright:
        y = frame.y(level.value)
        return path([(frame.left, y), (frame.right, y)], class_=f"line dashed thin l-{level.look}")
    x = frame.x(level.value)
    is_late = x > (frame.left + frame.right) / 2
    label = text(x - 6 if is_late else x + 6, frame.top + 12, level.label, "end" if is_late else "start", "tick")
    return group([path([(x, frame.top), (x, frame.bottom)], class_=f"line dashed thin l-{level.look}"), label])


def _line(frame: Frame, line: Line, axes: Axes) -> Markup:
    """Whoever points at a mark is told its numbers."""
    pieces: list[list[Point]] = [[]]
    for point in line.points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append((frame.x(point[0]), frame.y(point[1])))
    drawn = [path(piece, class_=f"line l-{line.look}") for piece in pieces if len(piece) > 1]
    hollow = line.hollow or [False] * len(line.points)
    marks = [
        tag(
            "g",
            tag("title", f"{line.label}: {axes.show_y(point[1])} at {axes.show_x(point[0])}"),
            mark(line.marks, frame.x(point[0]), frame.y(point[1]), f"m-{line.look}{' hollow' * is_hollow}"),
        )
        for point, is_hollow in zip(line.points, hollow, strict=True)
        if point is not None and line.marks
    ]
    return join([*drawn, *marks])


def mark(shape: str, x: float, y: float, class_: str, size: float = 3.6) -> Markup:
    """Shapes tell lines apart where colours do not."""
    if shape == "square":
        return tag("rect", x=x - size * 0.9, y=y - size * 0.9, width=size * 1.8, height=size * 1.8, class_=class_)
    if shape == "triangle":
        return path(
            [(x, y - size * 1.2), (x + size * 1.1, y + size * 0.8), (x - size * 1.1, y + size * 0.8)], class_=class_
        )
    if shape == "diamond":
        return path([(x, y - size * 1.3), (x + size * 1.3, y), (x, y + size * 1.3), (x - size * 1.3, y)], class_=class_)
    return tag("circle", cx=x, cy=y, r=size, class_=class_)


def _end_labels(frame: Frame, lines: Sequence[Line], levels: Sequence[Level]) -> list[Markup]:
    """At the right, moved apart where they would touch."""
    wanted = [(frame.y(line.known[-1][1]), line.label, line.look) for line in lines if line.label and line.known]
    wanted += [(frame.y(level.value), level.label, level.look) for level in levels]
    wanted.sort()
    placed: list[Markup] = []
    last = frame.top - 18
    # What does not fit below is pushed up from the bottom again.
    ys = [last := max(y, last + 15) for y, _, _ in wanted]
    overflow = max(0.0, (ys[-1] if ys else 0) - frame.bottom)
    for y, (_, label, look) in zip(ys, wanted, strict=True):
        placed.append(text(frame.right + 10, y - overflow + 4, shorten(label, 26), "start", f"end t-{look.split()[0]}"))
    return placed
