"""The curve as a picture, `curve.svg`: the average beside the last and the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ladle.curve import CurvePoint
from ladle_report.drawing.lines import Axes, Line, line_chart
from ladle_report.numbers import tick_of, value_of
from ladle_report.pictures import standalone

PICTURE_FILE = "curve.svg"
LINES: tuple[tuple[str, str, str, Callable[[CurvePoint], float | None]], ...] = (
    ("last checkpoint", "muted", "circle", lambda point: point.last),
    ("best checkpoint", "c1", "triangle", lambda point: point.best),
    ("average", "c2", "square", lambda point: point.average),
)


def draw(points: Sequence[CurvePoint], path: Path) -> None:
    """Writes the picture of the points that have the last one's metric. It appears at once, whoever looks at it."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(picture([point for point in points if point.metric == points[-1].metric]))
    unfinished.replace(path)


def picture(points: Sequence[CurvePoint]) -> str:
    """Steps run to the right. Where not every point has one, the points are counted."""
    steps = [point.step for point in points if point.step is not None]
    xs: Sequence[float] = steps if len(steps) == len(points) else range(1, len(points) + 1)
    newest = points[-1]
    lines = [
        Line(
            label=name,
            look=look,
            marks=shape,
            points=[
                None if (value := of(point)) is None else (float(x), value) for x, point in zip(xs, points, strict=True)
            ],
        )
        for name, look, shape, of in LINES
    ]
    better = "higher" if newest.higher_is_better else "lower"
    axes = Axes(
        x="step" if xs is steps else "average",
        y=f"{newest.metric} on held-out data, {better} is better",
        show_x=lambda value: f"{value:,g}",
        show_y=tick_of(newest.metric),
        x_ticks=None if xs is steps else [float(x) for x in xs][:: -(-len(points) // 10)],
    )
    told = f"The newest average has {value_of(newest.metric, newest.average)}"
    return standalone(line_chart("curve", (f"{newest.metric} while the training goes on", told), axes, lines)) + "\n"
