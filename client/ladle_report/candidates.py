"""The candidates as dots with intervals against the best checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from ladle_report.drawing.svg import WIDTH, Frame, Scale, drawing, group, path, scale_of, tag, text
from ladle_report.gains import better, better_between, is_share
from ladle_report.limits import shorten
from ladle_report.numbers import MINUS, value_of

ROW = 34
LEFT_MOST, RIGHT, TOP, BOTTOM = 216, 96, 14, 50
CHAR, MOST_CHARS = 7.1, 28
Row = Mapping[str, Any]
"""A candidate of a report, or of an event: `method`, `label`, `select`, `gain`, `gain_low`, `gain_high`."""


def candidates_figure(
    rows: Iterable[Row],
    *,
    metric: str | None = None,
    winner: str | None = None,
    name: str = "candidates",
) -> Markup:
    """An `<svg>` of one row per candidate, the best on top: a dot for its gain over the best checkpoint, and a bar for
    the 95 % interval. Right is better, also where a lower metric is.

    `metric` is the first of the task where nobody named one, and `winner` the method that won, or leads so far.
    """
    found = by_gain(rows)
    metric = metric or next(iter(found[0]["select"] if found else {}), "score")
    left = min(LEFT_MOST, max((len(row["label"]) for row in found), default=0) * CHAR + 30)
    scale = _scale(found, left)
    frame = Frame(x=scale, y=Scale(0, max(1, len(found)), TOP, TOP + ROW * max(1, len(found))))
    unit = 100 if is_share(metric) else 1
    frame.x_axis(axis_label(metric), lambda value: _tick(unit * value), scale.ticks(8))
    if scale.low <= 0 <= scale.high:
        frame.parts.append(path([(scale(0), frame.top), (scale(0), frame.bottom)], class_="zero"))
    for index, row in enumerate(found):
        frame.parts.append(_row(row, metric, frame.y(index + 0.5), scale, is_winner=row["method"] == winner))
    title = f"Gain of each candidate over the best checkpoint in {metric}"
    told = "; ".join(said(row, metric) for row in found)
    return drawing(name, title, told or "No candidate has been judged yet.", frame.bottom + BOTTOM, frame.parts)


def by_gain(rows: Iterable[Row]) -> list[Row]:
    """The best first."""
    return sorted(rows, key=lambda row: row.get("gain") or 0.0, reverse=True)


def axis_label(metric: str) -> str:
    """What the axis of gains counts."""
    unit = f"percentage points of {metric}" if is_share(metric) else metric
    return f"gain over the best checkpoint ({unit}; right is better)"


def said(row: Row, metric: str) -> str:
    """A candidate in words, for those who do not see it."""
    if row["method"] == "best":
        return f"{row['label']}: {value_of(metric, row['select'].get(metric))}"
    gain = better(metric, row.get("gain") or 0.0)
    between = "" if row.get("gain_low") is None else f", {better_between(metric, row['gain_low'], row['gain_high'])}"
    return f"{row['label']}: {gain}{between}"


def _scale(rows: list[Row], left: float) -> Scale:
    ends = [row[key] for row in rows for key in ("gain", "gain_low", "gain_high") if row.get(key) is not None]
    return scale_of([*ends, 0.0], left, WIDTH - RIGHT)


def _row(row: Row, metric: str, y: float, scale: Scale, *, is_winner: bool) -> Markup:
    label = text(scale.start - 14, y + 4.5, shorten(row["label"], MOST_CHARS), "end", "strong" if is_winner else None)
    value = text(WIDTH - RIGHT + 14, y + 4.5, value_of(metric, row["select"].get(metric)), "start")
    low, high = (row.get(key) or 0.0 for key in ("gain_low", "gain_high"))
    bar = [] if low == high else [path([(scale(low), y), (scale(high), y)], class_="whisker")]
    x = scale(row.get("gain") or 0.0)
    dot = _diamond(x, y) if row["method"] == "best" else tag("circle", cx=x, cy=y, r=6, class_="dot")
    return group([tag("title", said(row, metric)), label, *bar, dot, value], class_="win" if is_winner else None)


def _diamond(x: float, y: float) -> Markup:
    """The best checkpoint has a shape of its own: it is what the others are compared with."""
    return path([(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y), (x, y - 7)], class_="dot")


def _tick(value: float) -> str:
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{abs(value):.3g}"
