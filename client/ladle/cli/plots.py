"""The figures of a report in a terminal: the candidates, and the scores along the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from ladle.cli.canvas import Canvas
from ladle_report.candidates import by_gain
from ladle_report.drawing.svg import Scale, scale_of
from ladle_report.gains import is_share
from ladle_report.limits import shorten
from ladle_report.numbers import value_of
from ladle_report.reading import Report, read
from ladle_report.sections.merge_curve import places_of, points_of

Row = Mapping[str, Any]

HEIGHT = 12
"""Lines of the curve."""
LEAST_TRACK, MOST_TRACK = 16, 72
"""Columns in which dots and intervals are drawn."""
LABEL, SHORT_LABEL = 28, 14
NARROW = 70


def plots(report_json: Mapping[str, Any]) -> RenderableType:
    """What can be drawn of a `report.json`. Raises `NotAReport`."""
    report = read(report_json)
    parts: list[RenderableType] = [CandidatesPlot(report.candidates, report.metric, report.winner["method"])]
    if sum(point.get("alone") is not None for point in points_of(report)) > 1:
        parts += ["", CurvePlot(report)]
    return Group(*parts)


class CandidatesPlot:
    """A line for each candidate: a dot for its gain, a bar for the 95 % interval, and the value of the metric."""

    def __init__(self, rows: Sequence[Row], metric: str, winner: str | None) -> None:
        self._rows = by_gain(rows)
        self._metric = metric
        self._winner = winner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As wide as the terminal allows."""
        most = LABEL if options.max_width >= NARROW else SHORT_LABEL
        labels = [shorten(row["label"], most) for row in self._rows]
        wide = max(map(len, labels), default=0)
        values = [value_of(self._metric, row["select"].get(self._metric)) for row in self._rows]
        track = options.max_width - wide - max(map(len, values), default=0) - 4
        track = max(LEAST_TRACK, min(MOST_TRACK, track))
        ends = [row[key] for row in self._rows for key in ("gain", "gain_low", "gain_high") if row.get(key) is not None]
        scale = scale_of([*ends, 0.0], 0, track - 1)
        yield Text(f"Gain over the best checkpoint in {self._metric}, with 95 % intervals. Right is better.", "bold")
        for row, label, value in zip(self._rows, labels, values, strict=True):
            style = "bold green" if row["method"] == self._winner else ""
            drawn = self._track(row, scale, track, style, options.ascii_only)
            yield _line(Text(label.ljust(wide), style), drawn, Text(value, style))
        yield _line(Text(" " * wide), self._axis(scale, track), Text())

    def _track(self, row: Row, scale: Scale, width: int, style: str, ascii_only: bool) -> Text:
        left, bar, right, dot, best, zero = "|-|o#:" if ascii_only else "├─┤●◆┊"
        canvas = Canvas(width, 1)
        canvas.mark(round(scale(0.0)), 0, zero, "dim")
        low, high = row.get("gain_low"), row.get("gain_high")
        if low is not None and high is not None and low < high:
            start, end = round(scale(low)), round(scale(high))
            for x in range(start, end + 1):
                canvas.mark(x, 0, left if x == start else right if x == end else bar, style or "dim")
        canvas.mark(round(scale(row.get("gain") or 0.0)), 0, best if row["method"] == "best" else dot, style)
        return canvas.row(0)

    def _axis(self, scale: Scale, width: int) -> Text:
        """Round values below the tracks."""
        return Text(_ticks(scale, width, lambda value: _told(self._metric, value)), "dim")


class CurvePlot:
    """The score of every checkpoint, and of the average of it with those before it."""

    def __init__(self, report: Report) -> None:
        self._metric = report.metric
        self._points = points_of(report)
        self._places = places_of(report, self._points)
        self._unit = report.axis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As wide as the terminal allows."""
        alone, average = "ox" if options.ascii_only else "○●"
        values = [point[key] for point in self._points for key in ("alone", "average") if point.get(key) is not None]
        y = scale_of(values, HEIGHT - 0.01, 0)
        labels = {round(y(value) - 0.5): value_of(self._metric, value) for value in y.ticks(8)}
        margin = max(map(len, labels.values()))
        width = max(LEAST_TRACK, min(MOST_TRACK, options.max_width - margin - 2))
        x = scale_of(self._places, 1, width - 2, pad=0)
        canvas = Canvas(width, HEIGHT, options.ascii_only)
        self._draw(canvas, x, y, "alone", alone, "")
        self._draw(canvas, x, y, "average", average, "bold green")
        legend = Text.assemble(
            (f"{self._metric} along the run: ", "bold"), f"{alone} a checkpoint alone  ",
            (f"{average} the average of it and those before it", "green"),
        )  # fmt: skip
        yield legend
        for index in range(HEIGHT):
            edge = "|" if options.ascii_only else "│"
            yield Text.assemble((f"{labels.get(index, ''):>{margin}} {edge}", "dim"), canvas.row(index))
        ticks = _ticks(x, width, lambda value: f"{value:,.0f}" if value == int(value) else "")
        yield Text(" " * (margin + 2) + ticks, "dim", no_wrap=True)
        yield Text(" " * (margin + 2) + self._unit.rjust(width), "dim", no_wrap=True)

    def _draw(self, canvas: Canvas, x: Scale, y: Scale, key: str, sign: str, style: str) -> None:
        """A line guides the eye through the averages."""
        known = [
            (x(place), y(point[key]))
            for place, point in zip(self._places, self._points, strict=True)
            if point.get(key) is not None
        ]
        if key == "average":
            for here, there in pairwise(known):
                canvas.line(*here, *there)
        for place in known:
            canvas.mark(*place, sign, style)


def _line(*parts: Text) -> Text:
    line = Text("  ").join(parts)
    line.no_wrap = True
    return line


def _ticks(scale: Scale, width: int, show: Callable[[float], str]) -> str:
    """Round values where they belong on a line, as many as there is room for."""
    line = ""
    for value in scale.ticks(max(2, width // 12)):
        told = show(value)
        start = min(round(scale(value)) - len(told) // 2, width - len(told))
        if told and start >= len(line):
            line = line.ljust(start) + told + " "
    return line.rstrip().ljust(width + 1)


def _told(metric: str, gain: float) -> str:
    """`+1.5`: of a share in points."""
    value = 100 * gain if is_share(metric) else gain
    return f"{value:+.3g}" if value else "0"
