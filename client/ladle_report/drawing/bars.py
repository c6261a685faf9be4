"""Bars: lying with a name each, or upright where there are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ladle_report.drawing.svg import WIDTH, Frame, Scale, drawing, path, round_values, tag, text
from ladle_report.limits import shorten, spread

ROW, CHAR = 24.0, 6.9
LEFT_MOST, RIGHT = 230, 116
COLUMN_LEFT, COLUMN_TOP, COLUMN_BOTTOM, COLUMN_HEIGHT = 64, 30, 50, 280


@dataclass(frozen=True, kw_only=True)
class Bar:
    """From `start` to `end`; `note` stands behind it."""

    label: str
    end: float
    note: str
    start: float = 0.0
    look: str = "p4"


def lying_bars(
    name: str,
    words: tuple[str, str],
    bars: Sequence[Bar],
    axis: tuple[str, Callable[[float], str]],
    level: tuple[float, str] | None = None,
) -> Markup:
    """One row each; `level` is a dashed line at a value, with its name."""
    left = min(LEFT_MOST, max((len(bar.label) for bar in bars), default=0) * CHAR + 16)
    ends = [0.0, *(value for bar in bars for value in (bar.start, bar.end)), *([level[0]] if level else [])]
    low, high = min(ends), max(ends) or 1.0
    # A note of a bar that ends at zero or below stands at the right of zero.
    x = Scale(low, high if high > low else low + 1, left + (46 if low < 0 else 0), WIDTH - RIGHT)
    frame = Frame(x=x, y=Scale(0, len(bars), 22, 22 + ROW * len(bars)))
    frame.x_axis(axis[0], axis[1])
    for index, bar in enumerate(bars):
        frame.parts.extend(_lying(frame, bar, index, left))
    frame.parts.append(path([(x(0), frame.top), (x(0), frame.bottom)], class_="axis"))
    if level:
        frame.parts.append(path([(x(level[0]), frame.top - 4), (x(level[0]), frame.bottom)], class_="zero"))
        frame.parts.append(text(x(level[0]), frame.top - 8, level[1], "middle", "tick"))
    return drawing(name, *words, frame.bottom + 46, frame.parts)


def _lying(frame: Frame, bar: Bar, index: int, left: float) -> list[Markup]:
    y = frame.y(index) + 4
    start, end = sorted((frame.x(bar.start), frame.x(bar.end)))
    is_negative = bar.end < bar.start
    most = int((left - 16) / CHAR)
    return [
        text(left - 10, y + 12.5, shorten(bar.label, most), "end"),
        tag("rect", x=start, y=y, width=max(1.0, end - start), height=ROW - 8, rx=2, class_=f"f-{bar.look}"),
        text(start - 6 if is_negative else end + 6, y + 12.5, bar.note, "end" if is_negative else "start", "tick"),
    ]


def upright_bars(
    name: str,
    words: tuple[str, str],
    bars: Sequence[Bar],
    axes: tuple[str, str, Callable[[float], str]],
    level: tuple[float, str] | None = None,
) -> Markup:
    """For many: `axes` are the labels of both, and how values are written."""
    ends = [0.0, *(bar.end for bar in bars), *([level[0]] if level else [])]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or 1.0
    y = Scale(low - (room if low < 0 else 0), high + room, COLUMN_HEIGHT - COLUMN_BOTTOM, COLUMN_TOP)
    frame = Frame(x=Scale(0, len(bars), COLUMN_LEFT, WIDTH - 20), y=y)
    frame.y_axis(axes[1], axes[2], round_values(y.low, y.high))
    width = (frame.right - frame.left) / max(1, len(bars))
    for index, bar in enumerate(bars):
        top, bottom = sorted((y(0), y(bar.end)))
        place = frame.x(index) + width * 0.12
        frame.parts.append(
            tag("rect", x=place, y=top, width=width * 0.76, height=max(0.8, bottom - top), class_=f"f-{bar.look}")
        )
    for index in spread(len(bars), 10):
        frame.parts.append(text(frame.x(index + 0.5), frame.bottom + 16, bars[index].label, "middle", "tick"))
    frame.parts.append(path([(frame.left, y(0)), (frame.right, y(0))], class_="axis"))
    if level:
        frame.parts.append(path([(frame.left, y(level[0])), (frame.right, y(level[0]))], class_="zero"))
        frame.parts.append(text(frame.right, y(level[0]) - 5, level[1], "end", "tick"))
    frame.parts.append(text((frame.left + frame.right) / 2, frame.bottom + 36, axes[0], "middle", "label"))
    return drawing(name, *words, COLUMN_HEIGHT, frame.parts)
