"""A forecast in words: what averaging was expected to bring, and what it brought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_report.reading import Report

LITTLE = 0.02
"""As a share of the loss: a smaller gain is told as little."""
FEATURES = {
    "slowing": "how much the moves between checkpoints became shorter",
    "noise": "how much of their spread is noise",
    "size": "how far apart they are",
    "lead": "how far ahead the best of them is",
    "falling": "how much their loss was still falling",
}


def expectation(forecast: Mapping[str, Any]) -> str:
    """One sentence or two: `Expect about 6.2 % lower loss than the best checkpoint has (between ...).`"""
    result, mean = forecast["result"], forecast["mean"]
    lower = float(result["lower"])
    start = "Expect" if abs(lower) >= LITTLE else "Expect little:"
    source = "" if result["goes_by"] else "; the median of all sets"
    told = f"{start} {_about(result)} than the best checkpoint has ({_between(result)}{source})."
    # What needs no feature is the same for all sets: not worth a sentence of its own.
    return f"{told} The plain mean of all should have {_about(mean)} ({_between(mean)})." if mean["goes_by"] else told


def remarks(forecast: Mapping[str, Any]) -> list[str]:
    """What to know of a forecast: what it comes from, how wrong such ones were, and where it knows nothing alike."""
    result, mean = forecast["result"], forecast["mean"]
    told = [
        f"It was fitted to {forecast['sets']:,} small sets of checkpoints on {forecast['families']:,} kinds of data. "
        f"On kinds that it had not seen, it was wrong by {float(result['error_points']):.1f} points on average for the "
        f"result{_goes_by(result)}, and by {float(mean['error_points']):.1f} for the plain mean{_goes_by(mean)}: "
        f"{100 * float(result['covered']):.0f} % and {100 * float(mean['covered']):.0f} % of them lay within such "
        f"intervals."
    ]
    if forecast["decayed"]:
        low, median, high = map(float, forecast["gains_of_decayed"])
        gained = {"lower": median, "low": low, "high": high}
        told.append(
            f"The learning rate had decayed: the moves between checkpoints became shorter. Of sets like that, results "
            f"had {_about(gained)} in the median ({_between(gained)})."
        )
    beyond = [FEATURES.get(name, str(name)) for name in dict.fromkeys([*result["beyond"], *mean["beyond"]])]
    if beyond:
        told.append(f"These checkpoints are beyond all of them in {' and '.join(beyond)}, so take it with care.")
    return told


def beside_gain(report: Report) -> str:
    """The same with what came out; empty for a report without a forecast."""
    forecast = report.part("forecast")
    if not forecast:
        return ""
    losses = [row["select"].get("loss") for row in (report.winner, report.best)]
    if None in losses or not losses[1]:
        return expectation(forecast)
    gained = 1 - float(losses[0]) / float(losses[1])
    expected = forecast["result"]
    where = "within" if float(expected["low"]) <= gained <= float(expected["high"]) else "outside of"
    came = f"{share(gained)} {_word(gained)}" if gained else "that of the best checkpoint"
    return f"{expectation(forecast)} On the held-out examples the result's loss is {came}, {where} what was expected."


def share(amount: float) -> str:
    """`0.5 %`, `12 %`"""
    percent = 100 * abs(amount)
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def _about(expected: Mapping[str, Any]) -> str:
    lower = float(expected["lower"])
    return f"about {share(lower)} {_word(lower)} loss"


def _between(expected: Mapping[str, Any]) -> str:
    low, high = float(expected["low"]), float(expected["high"])
    if (low < 0) == (high < 0):
        near, far = sorted((abs(low), abs(high)))
        return f"between {share(near)} and {share(far)} {_word(low)}"
    return f"between {share(low)} {_word(low)} and {share(high)} {_word(high)}"


def _word(amount: float) -> str:
    return "lower" if amount >= 0 else "higher"


def _goes_by(expected: Mapping[str, Any]) -> str:
    """In brackets, where it goes by anything."""
    names = [FEATURES.get(name, str(name)) for name in expected["goes_by"]]
    return f" (by {' and '.join(names)})" if names else " (the median of all sets)"
