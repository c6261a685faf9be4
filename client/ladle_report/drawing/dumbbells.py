"""Two values per row, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ladle_report.drawing.lines import mark
from ladle_report.drawing.svg import WIDTH, Frame, Scale, drawing, path, scale_of, tag, text
from ladle_report.limits import shorten

ROW, CHAR, TOP = 30, 7.1, 34
LEFT_MOST, RIGHT = 216, 30


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What the two have of one thing; None where one has none of it."""

    label: str
    first: float | None
    second: float | None


def dumbbells(
    name: str,
    words: tuple[str, str],
    pairs: Sequence[Pair],
    legend: tuple[str, str],
    axis: tuple[str, Callable[[float], str]],
) -> Markup:
    """A circle for the first and a square for the second, with a line between them."""
    left = min(LEFT_MOST, max((len(pair.label) for pair in pairs), default=0) * CHAR + 24)
    values = [value for pair in pairs for value in (pair.first, pair.second) if value is not None]
    x = scale_of(values, left, WIDTH - RIGHT)
    frame = Frame(x=x, y=Scale(0, max(1, len(pairs)), TOP, TOP + ROW * max(1, len(pairs))))
    frame.x_axis(axis[0], axis[1])
    for shape, look, label, place in (("circle", "c1", legend[0], left), ("square", "c2", legend[1], left + 200)):
        frame.parts.append(mark(shape, place + 6, 12, f"m-{look}", 5))
        frame.parts.append(text(place + 18, 16, shorten(label, 24), class_=f"t-{look}"))
    for index, pair in enumerate(pairs):
        frame.parts.extend(_row(frame, pair, frame.y(index + 0.5), left))
    return drawing(name, *words, frame.bottom + 50, frame.parts)


def _row(frame: Frame, pair: Pair, y: float, left: float) -> list[Markup]:
    parts = [text(left - 12, y + 4.5, shorten(pair.label, 28), "end")]
    if pair.first is not None and pair.second is not None:
        parts.append(path([(frame.x(pair.first), y), (frame.x(pair.second), y)], class_="whisker"))
    for value, shape, look in ((pair.first, "circle", "c1"), (pair.second, "square", "c2")):
        if value is not None:
            parts.append(tag("g", mark(shape, frame.x(value), y, f"m-{look} spot", 6)))
    return parts
