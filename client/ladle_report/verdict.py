"""The answer of a report in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_report.gains import compared, compared_between, is_share
from ladle_report.loss_decided import passed_over
from ladle_report.numbers import capital, plural, signed, value_of
from ladle_report.reading import Report, read
from ladle_report.sureness import ninety_five


def answer(report: Mapping[str, Any]) -> str:
    """What came out, as people say it: `Accuracy 94.8 % instead of 91.5 % of your best checkpoint (95 %: +1.2 to +7.3
    points, 260 held-out examples)`, or that nothing beat the best checkpoint. Raises `NotAReport`.
    """
    return answer_of(read(report))


def answer_of(report: Report) -> str:
    """The same of one that has been read."""
    metric, winner, best = report.metric, report.winner, report.best
    examples = plural(int(report.json["splits"]["select"]), "held-out example")
    if winner["method"] == "best":
        beaten = any(row["gain"] > 0 for row in report.candidates)
        if passed_over(report.candidates, "best"):
            why = " beyond chance"
        else:
            why = " without being worse on some validation set" if beaten else ""
        return f"No average beat your best checkpoint{why}: {told(metric, best)} on {examples}"
    if not report.json["gain"]["value"]:
        losses = " instead of ".join(value_of("loss", each["select"].get("loss")) for each in (winner, best))
        return f"The same {metric} as your best checkpoint, with a lower loss: {losses} ({examples})"
    values = f"{told(metric, winner)} instead of {value_of(metric, best['select'].get(metric))}"
    between = interval(report.json["metric"], report.json["gain"])
    return f"{values} of your best checkpoint ({ninety_five(report)}: {between}, {examples})"


def told(metric: str, row: Mapping[str, Any]) -> str:
    """`Accuracy 94.8 %`"""
    return f"{capital(metric)} {value_of(metric, row['select'].get(metric))}"


def interval(metric: Mapping[str, Any], gain: Mapping[str, float]) -> str:
    """`+1.2 to +7.3 points` of a share, else `0.0100 to 0.0300 lower`."""
    low, high = gain["low"], gain["high"]
    if is_share(metric["name"]):
        return f"{signed(100 * low, 1)} to {signed(100 * high, 1)} points"
    return compared_between(metric["name"], metric["higher_is_better"], low, high)


def gain_in_words(report: Report) -> str:
    """`accuracy 2.40 points higher than the best checkpoint (95 %: ...)`"""
    metric, gain = report.json["metric"], report.json["gain"]
    if report.json["winner"] == "best":
        return "none: the result is the best checkpoint"
    if not gain["value"]:
        return f"none in {metric['name']}"
    amount = compared(metric["name"], metric["higher_is_better"], gain["value"])
    return f"{amount} than the best checkpoint (95 % interval: {interval(metric, gain)})"
