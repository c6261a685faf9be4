"""Where the metric cannot tell the best candidates apart, the lowest loss decides: in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ROUNDING = 1e-9
"""A gain that differs by less is the same one."""


def passed_over(rows: Sequence[Mapping[str, Any]], winner: str) -> Mapping[str, Any] | None:
    """The candidate that the metric alone would have chosen; None where that is the winner.

    One that is worse on some validation set has been passed over for that.
    """
    gain = next((row["gain"] for row in rows if row["method"] == winner), None) or 0.0
    ahead = [row for row in rows if (row["gain"] or 0.0) > gain + ROUNDING and not _is_worse_somewhere(row)]
    return max(ahead, key=lambda row: row["gain"], default=None)


def loss_decided(rows: Sequence[Mapping[str, Any]], winner: str, metric: str) -> str:
    """A sentence; empty where the metric decided."""
    other = passed_over(rows, winner)
    if other is None:
        return ""
    return f"By {metric} `{other['label']}` is ahead, but the difference may be chance, so the lower loss decided."


def _is_worse_somewhere(row: Mapping[str, Any]) -> bool:
    """A report tells it; of a result it is seen in the interval of each set."""
    return bool(row.get("worse_on")) or any((each["gain_high"] or 0.0) < 0 for each in row.get("sets", {}).values())
