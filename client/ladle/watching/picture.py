"""The curve as a picture, `curve.svg`: the average beside the last and the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from ladle.curve import CurvePoint

PICTURE_FILE = "curve.svg"
WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 64, 56
LINES: tuple[tuple[str, str, Callable[[CurvePoint], float | None]], ...] = (
    ("last checkpoint", "#888888", lambda point: point.last),
    ("best checkpoint", "#1f77b4", lambda point: point.best),
    ("average", "#d62728", lambda point: point.average),
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
    values = [value for _, _, of in LINES for point in points if (value := of(point)) is not None]
    x_of, y_of = _scale(xs, LEFT, WIDTH - RIGHT), _scale(values, HEIGHT - BOTTOM, TOP)
    parts = [_axis(xs, values, x_of, y_of, "step" if xs is steps else "average")]
    for number, (name, colour, of) in enumerate(LINES):
        known = [
            (x_of(x), y_of(value)) for x, point in zip(xs, points, strict=True) if (value := of(point)) is not None
        ]
        parts.append(_line(known, colour))
        parts.append(_text(LEFT + 170 * number + 18, 42, name, "start"))
        parts.append(f'<rect x="{LEFT + 170 * number}" y="36" width="12" height="4" fill="{colour}"/>')
    better = "higher" if points[-1].higher_is_better else "lower"
    parts.append(_text(LEFT, 22, f"{points[-1].metric} on held-out data, {better} is better", "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
    return "\n".join([f'{head}font-size="13">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def _scale(values: Sequence[float], low: float, high: float) -> Callable[[float], float]:
    least, span = min(values), max(values) - min(values)
    return lambda value: low + (high - low) * ((value - least) / span if span else 0.5)


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'


def _axis(
    xs: Sequence[float],
    values: Sequence[float],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    name: str,
) -> str:
    """The least and the largest of both, with a thin line for each value."""
    parts = [_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, name, "middle")]
    for value in dict.fromkeys((min(values), max(values))):
        y = y_of(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:.4f}", "end"))
    parts += [_text(x_of(x), HEIGHT - 34, f"{x:,}", "middle") for x in dict.fromkeys((min(xs), max(xs)))]
    return "\n".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333333">{escape(text)}</text>'
