"""How pages write times, numbers and sizes."""

from __future__ import annotations

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """`1.2 GB`: decimal units, like those of disks and networks."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("the loop ends with the last unit")


def ago(moment: datetime) -> str:
    """`8 s ago`, `3 min ago`, `2 h ago`, `5 days ago`"""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for length, unit in ((2 * 86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // (86400 if unit == 'days' else length)} {unit} ago"
    return f"{seconds} s ago"


def number(value: float | None) -> str:
    """Four decimals, as in every table."""
    return "-" if value is None else f"{value:.4f}"


FILTERS = {"duration": duration, "size": size, "ago": ago, "number": number}
