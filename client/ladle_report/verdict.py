"""The answer of a report in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_report.gains import compared_between, is_share
from ladle_report.numbers import plural, signed, value_of


def answer(report: Mapping[str, Any]) -> str:
    """What came out, as people say it: `Accuracy 94.8 % instead of 91.5 % of your best checkpoint (95 %: +1.2 to +7.3
    points, 260 held-out examples)`, or that nothing beat the best checkpoint.
    """
    metric, gain, winner = report["metric"]["name"], report["gain"], report["winner"]
    examples = plural(report["splits"]["select"], "held-out example")
    best = row_of(report, "best")
    if winner == "best":
        beaten = any(row["gain"] > 0 for row in report["candidates"])
        why = " without being worse on some validation set" if beaten else ""
        return f"No average beat your best checkpoint{why}: {told(metric, best)} on {examples}"
    row = row_of(report, winner)
    if not gain["value"]:
        losses = (
            f"{value_of('loss', row['select'].get('loss'))} instead of {value_of('loss', best['select'].get('loss'))}"
        )
        return f"The same {metric} as your best checkpoint, with a lower loss: {losses} ({examples})"
    values = f"{told(metric, row)} instead of {value_of(metric, best['select'].get(metric))}"
    return f"{values} of your best checkpoint (95 %: {interval(report['metric'], gain)}, {examples})"


def row_of(report: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """The candidate of a method."""
    return next(row for row in report["candidates"] if row["method"] == method)


def told(metric: str, row: Mapping[str, Any]) -> str:
    """`Accuracy 94.8 %`"""
    return f"{metric[:1].upper()}{metric[1:]} {value_of(metric, row['select'].get(metric))}"


def interval(metric: Mapping[str, Any], gain: Mapping[str, float]) -> str:
    """`+1.2 to +7.3 points` of a share, else `0.0100 to 0.0300 lower`."""
    low, high = gain["low"], gain["high"]
    if is_share(metric["name"]):
        return f"{signed(round(100 * low, 1), 1)} to {signed(round(100 * high, 1), 1)} points"
    return compared_between(metric["name"], metric["higher_is_better"], low, high)
