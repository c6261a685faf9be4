"""Drawings as SVG: elements, scales and axes. Colours are classes of `static/ladle.css`, for light and dark alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH = 680
"""Of every drawing, in its own units: about the pixels of a report on a laptop."""


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element. Text is escaped; `class_` is `class`, and `stroke_width` is `stroke-width`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, str) else short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{told}>{inner}</{name}>" if inner else f"<{name}{told}/>")  # noqa: S704  # escaped above


def group(parts: Iterable[str], **attributes: str | float | None) -> Markup:
    """A `<g>` around parts."""
    return tag("g", *parts, **attributes)


def join(parts: Iterable[str]) -> Markup:
    """Parts one after another."""
    return Markup("").join(parts)


def short(value: float) -> str:
    """A coordinate: a tenth of a unit is less than anybody sees."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def text(x: float, y: float, words: str, anchor: str = "start", class_: str | None = None) -> Markup:
    """One line of text. `y` is its base line."""
    return tag("text", words, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


def path(points: Iterable[tuple[float, float]], **attributes: str | float | None) -> Markup:
    """A line through points."""
    d = "L".join(f"{short(x)} {short(y)}" for x, y in points)
    return tag("path", d=f"M{d}", **attributes)


def drawing(
    name: str, title: str, description: str, height: float, parts: Iterable[str], width: float = WIDTH
) -> Markup:
    """The whole `<svg>`, which a screen reader reads as one picture with this title and description."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {short(width)} {short(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="drawing",
    )


@dataclass(frozen=True)
class Scale:
    """Values `low`..`high` on the line from `start` to `end`. Of equal values all lie in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside of the scale."""
        return round_values(self.low, self.high, most)


def round_values(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values, at most `most`."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= raw * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [0.0 if index == 0 else index * step for index in range(first, last + 1)] or [low]


def scale_of(values: Iterable[float], start: float, end: float, *, pad: float = 0.05) -> Scale:
    """A scale that holds all values, with a little room at both ends."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = (high - low) * pad or abs(high) * pad or 1.0
    return Scale(low - room, high + room, start, end)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The area of a plot, with what stands along its edges."""

    x: Scale
    y: Scale
    parts: list[Markup] = field(default_factory=list)

    @property
    def left(self) -> float:
        """The edge of the values."""
        return min(self.x.start, self.x.end)

    @property
    def right(self) -> float:
        """The other edge."""
        return max(self.x.start, self.x.end)

    @property
    def top(self) -> float:
        """The upper edge."""
        return min(self.y.start, self.y.end)

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return max(self.y.start, self.y.end)

    def x_axis(self, label: str, show: Callable[[float], str], ticks: Sequence[float] | None = None) -> None:
        """Thin lines at round values, their numbers below, and what they count."""
        for value in self.x.ticks() if ticks is None else ticks:
            x = self.x(value)
            self.parts.append(path([(x, self.top), (x, self.bottom)], class_="grid"))
            self.parts.append(text(x, self.bottom + 17, show(value), "middle", "tick"))
        self.parts.append(text((self.left + self.right) / 2, self.bottom + 37, label, "middle", "label"))

    def y_axis(self, label: str, show: Callable[[float], str], ticks: Sequence[float] | None = None) -> None:
        """The same on the left; the label stands above the plot, where it can be read."""
        for value in self.y.ticks() if ticks is None else ticks:
            y = self.y(value)
            self.parts.append(path([(self.left, y), (self.right, y)], class_="grid"))
            self.parts.append(text(self.left - 8, y + 4, show(value), "end", "tick"))
        self.parts.append(text(self.left, self.top - 10, label, "start", "label"))

    def line(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """A line through values."""
        self.parts.append(path([(self.x(x), self.y(y)) for x, y in points], class_=f"line {class_}"))
