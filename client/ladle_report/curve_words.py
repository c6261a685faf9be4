"""What a merge curve says in words: where averaging pays, and whether going on with the training would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from ladle_report.gains import better, better_between

BEYOND = "beyond a 95 % interval for all points at once"
CONFIDENCE = 0.95
"""Of the intervals of a curve's points."""
BEST_PROFILE = "the best profile"
"""What an average is at a point of a merge curve; else it is the mean of all checkpoints so far."""


def curve_words(curve: Mapping[str, Any]) -> list[str]:
    """A sentence or two. `curve` is what `curve.json` has."""
    metric = str(curve["metric"])
    said = [_averaging(curve["points"], metric)]
    if curve["last_quarter"] is not None:
        said.append(_training(curve["last_quarter"], metric))
    return said


def _averaging(points: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Whether, and up to where, an average is better than its newest checkpoint beyond the 95 % interval of all points
    at once."""
    points = [{**point, "gain": _at_once(point["gain"], len(points))} for point in points]
    paying = [point for point in points if point["gain"]["low"] > 0]
    places = f"{len(paying)} of {len(points)} points"
    if not paying:
        return (
            f"Averaging does not pay: at no point of the curve is the average better than its newest checkpoint "
            f"{BEYOND}."
        )
    last = points[-1]
    if paying[-1] is last:
        of = f"the average of {last['averaged']:,} checkpoints is {_gain(last['gain'], metric)} than the newest one"
        return f"Averaging still pays at the end, as at {places}: {of}, by an interval for all points at once."
    return (
        f"Averaging stops paying after `{paying[-1]['checkpoint']}`: it pays at {places}, and after that one no "
        f"average is better than its newest checkpoint {BEYOND}. The learning rate may have decayed there, or the "
        f"examples are too few to tell."
    )


def _training(quarter: Mapping[str, Any], metric: str) -> str:
    """Whether the averaged model still got better in the last quarter of the run."""
    gain = quarter["gain"]
    since = f"From `{quarter['from']}` to `{quarter['to']}` the averaged model became"
    if gain["low"] > 0:
        return f"{since} {_gain(gain, metric)}: going on with the training would pay."
    if gain["high"] < 0:
        return f"{since} {_gain(gain, metric)}: going on with the training as it is would not pay."
    return (
        f"{since} {_gain(gain, metric)}, which may be chance: nothing says that going on with the training as it is "
        f"would pay."
    )


def _gain(gain: Mapping[str, float], metric: str) -> str:
    if not any(gain[each] for each in ("value", "low", "high")):
        return "equal"
    return f"{better(metric, gain['value'])} ({better_between(metric, gain['low'], gain['high'])})"


def _at_once(gain: Mapping[str, float], count: int) -> dict[str, float]:
    """The interval of one of so many comparisons that holds for all of them at once (Bonferroni)."""
    one, all_of_them = (NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / each) for each in (1, count))
    value, wider = gain["value"], all_of_them / one
    return {"value": value, **{end: value + wider * (gain[end] - value) for end in ("low", "high")}}
