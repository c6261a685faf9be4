"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ladle_report.gains import is_share

NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def value_of(metric: str, value: float | None) -> str:
    """A metric's value: `94.8 %` of a share, else `0.3395`; a dash for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if is_share(metric):
        return f"{100 * value:.1f} %"
    return digits(value, 4)


def digits(value: float, most: int = 4) -> str:
    """`0.3395`, `12.35`, `1,234`, `3.2e-05`: about `most` digits."""
    size = abs(value)
    if not size:
        return "0"
    if size < 10.0**-most or size >= 1e9:
        return f"{value:.2g}"
    after = max(0, most - max(0, math.floor(math.log10(size)) + 1)) if size >= 1 else most
    return f"{value:,.{after}f}"


def signed(value: float, after: int = 4) -> str:
    """`+0.0120`, with a true minus and so many digits after the point."""
    told = f"{abs(value):.{after}f}"
    return told if not float(told) else f"{'+' if value > 0 else MINUS}{told}"


def places_of(values: Iterable[float]) -> Callable[[float], str]:
    """How values that are shown together are written: all with the digits that tell the smaller ones apart, and with a
    true minus. `0.46`, `0.0033`"""
    most = max((abs(value) for value in values), default=0.0)
    after = 2 if most >= 0.1 else 3 if most >= 0.01 else 4 if most >= 0.001 else 6

    def show(value: float) -> str:
        told = f"{abs(value):.{after}f}"
        return "0" if not float(told) else f"{MINUS if value < 0 else ''}{told}"

    return show


def seconds(value: float) -> str:
    """`0.19 s`, `8.1 s`, `3 min 20 s`, `2 h 5 min`"""
    if value < 10:
        return f"{value:.2g} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """`1.2 GB`: decimal units, like those of disks and networks."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.3g} {unit}"
        value /= 1000
    raise AssertionError


def plural(count: int, thing: str) -> str:
    """`1 checkpoint`, `2 checkpoints`"""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def tick_of(metric: str) -> Callable[[float], str]:
    """How an axis writes values of a metric."""
    return (lambda value: f"{100 * value:.4g} %") if is_share(metric) else (lambda value: f"{value:.4g}")


def capital(words: str) -> str:
    """The beginning of a title or a sentence, with all other letters as they are."""
    return words[:1].upper() + words[1:]


def rate(per_second: float, unit: str) -> str:
    """`12.4 steps/s`, `1,250 examples/s`, `1.23 GB/s`"""
    return f"{size(round(per_second))}/s" if unit == "bytes" else f"{digits(per_second, 3)} {unit}/s"


def ago(moment: datetime) -> str:
    """`8 s ago`, `3 min ago`, `2 h ago`, `5 days ago`"""
    passed = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for length, unit in ((2 * 86400, "days"), (3600, "h"), (60, "min")):
        if passed >= length:
            return f"{passed // (86400 if unit == 'days' else length)} {unit} ago"
    return f"{passed} s ago"
