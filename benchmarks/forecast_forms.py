"""Forms of the forecast: how each is fitted, and how wrong it is on families of data that it has not seen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ladle_engine.subspace.forecast import OF_DISTANCES, OF_LOSSES, as_share, bent, line, straightened

RIDGE = 1.0
"""Added to the sums of squares of the standardised features."""
CONFIDENCE = 0.9
"""The share of the errors on families that were left out that an interval spans."""
SURE = 3.0
"""Standard errors over families by which a form must beat the median."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One set."""

    set: str
    seed: int
    kind: str
    """`constant` or `decayed` learning rate, or a `sweep`."""
    K: int
    features: dict[str, float]
    gain: float
    """Of what `auto` chose."""
    gain_of_mean: float
    """Of the mean of all."""
    winner: str

    @property
    def family(self) -> str:
        """The data."""
        return self.set.partition("-")[0]


def border(rows: Sequence[Row]) -> float:
    """Of `slowing`, below which a run's learning rate is taken to have decayed: in the middle between the kinds where
    it tells most of them apart."""
    values = sorted(row.features["slowing"] for row in rows)
    middles = [(one + other) / 2 for one, other in pairwise(values)]

    def right(at: float) -> float:
        """The mean of the shares that are told rightly, of both kinds."""
        hits = [((row.features["slowing"] < at) == is_decayed(row), is_decayed(row)) for row in rows]
        return sum(statistics.mean(hit for hit, kind in hits if kind == each) for each in (True, False))

    most = max(map(right, middles))
    best = [at for at in middles if right(at) == most]
    return statistics.median(best)


def is_decayed(row: Row) -> bool:
    return row.kind == "decayed"


Form = Callable[[Sequence[Row]], dict[str, Any]]


def median_of(rows: Sequence[Row]) -> dict[str, Any]:
    return {"constant": statistics.median(bent(row.gain) for row in rows), "terms": {}}


def line_through(names: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """Ridge regression on standardised features."""
    table = np.array([[row.features[name] for name in names] for row in rows])
    target = np.array([bent(row.gain) for row in rows])
    means, scales = table.mean(axis=0), table.std(axis=0)
    standard = (table - means) / scales
    penalty = RIDGE * np.eye(len(names))
    slopes = np.linalg.solve(standard.T @ standard + penalty, standard.T @ (target - target.mean())) / scales
    terms = {
        name: {"slope": float(slope), "mean": float(mean), "seen": [float(column.min()), float(column.max())]}
        for name, slope, mean, column in zip(names, slopes, means, table.T, strict=True)
    }
    return {"constant": float(target.mean()), "terms": terms}


FORMS: dict[str, Form] = {
    "median": median_of,
    "distances": lambda rows: line_through(OF_DISTANCES, rows),
    "lead": lambda rows: line_through(("lead",), rows),
    "distances and losses": lambda rows: line_through((*OF_DISTANCES, *OF_LOSSES), rows),
}
"""Name -> how it is fitted."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A form, on families that it was not fitted to."""

    expected: Sequence[float]
    """For each row, bent."""
    errors: Mapping[str, float]
    """Family -> the mean absolute error, bent."""
    points: float
    """The mean absolute error of the expected share, in percent of the loss."""
    spread: tuple[float, float]
    """Of what was found above what was expected, bent: an interval that holds for `CONFIDENCE` of the sets."""
    covered: float
    """The share of the sets that lie in an interval that comes from other families too."""

    @property
    def error(self) -> float:
        return statistics.mean(self.errors.values())

    def better_than(self, other: Judged) -> tuple[float, float]:
        """By how much its error is smaller, with the standard error, over families."""
        less = [other.errors[family] - self.errors[family] for family in self.errors]
        return statistics.mean(less), statistics.stdev(less) / math.sqrt(len(less))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error}


def judge(rows: Sequence[Row], form: str) -> Judged:
    """Leaves out one family after the other."""
    families = sorted({row.family for row in rows})
    fits = {family: FORMS[form]([row for row in rows if row.family != family]) for family in families}
    expected = [line(fits[row.family], row.features) for row in rows]
    above = [bent(row.gain) - value for row, value in zip(rows, expected, strict=True)]

    def spread_without(family: str | None) -> tuple[float, float]:
        others = [rest for row, rest in zip(rows, above, strict=True) if row.family != family]
        low, high = np.quantile(others, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)

    spreads = {family: spread_without(family) for family in families}
    inside = [spreads[row.family][0] <= rest <= spreads[row.family][1] for row, rest in zip(rows, above, strict=True)]
    return Judged(
        expected=expected,
        errors={
            family: statistics.mean(abs(rest) for row, rest in zip(rows, above, strict=True) if row.family == family)
            for family in families
        },
        points=statistics.mean(
            100 * abs(as_share(row.gain) - as_share(straightened(value)))
            for row, value in zip(rows, expected, strict=True)
        ),
        spread=spread_without(None),
        covered=statistics.mean(inside),
    )


def decay_told(rows: Sequence[Row]) -> tuple[int, int, int, int]:
    """With a border from other families: how many decayed runs are told, of how many; and how many others wrongly."""
    told = [
        (row.features["slowing"] < border([other for other in rows if other.family != row.family]), is_decayed(row))
        for row in rows
    ]
    decayed = [found for found, kind in told if kind]
    others = [found for found, kind in told if not kind]
    return sum(decayed), len(decayed), sum(others), len(others)


TARGETS = ("result", "mean")
"""What is forecast: the gain of what `auto` chose, and that of the mean of all."""


def of_target(rows: Sequence[Row], target: str) -> list[Row]:
    """The same sets, with the gain that is forecast."""
    return [row if target == "result" else replace(row, gain=row.gain_of_mean) for row in rows]


def judged_forms(rows: Sequence[Row]) -> dict[str, dict[str, Judged]]:
    """Target -> form -> how it did."""
    return {target: {form: judge(of_target(rows, target), form) for form in FORMS} for target in TARGETS}


def offered(judged: Mapping[str, Judged]) -> list[str]:
    """The forms that surely beat the median, the best first, and the median."""
    sure = []
    for form in FORMS.keys() - {"median"}:
        less, error = judged[form].better_than(judged["median"])
        sure += [form] if less > SURE * error else []
    return [*sorted(sure, key=lambda form: judged[form].error), "median"]


def usable(forms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those that need all that a better one needs, and more: nobody would ever take them."""
    kept: list[dict[str, Any]] = []
    for form in forms:
        if not any(better["terms"].keys() <= form["terms"].keys() for better in kept):
            kept.append(form)
    return kept


def fit_of(rows: Sequence[Row], judged: Mapping[str, Mapping[str, Judged]]) -> dict[str, Any]:
    """What the engine reads."""
    found, decayed, wrong, others = decay_told(rows)
    return {
        "made_by": "python benchmarks/forecast.py",
        "sets": len(rows),
        "families": sorted({row.family for row in rows}),
        "targets": {
            target: usable(
                [
                    {
                        "form": form,
                        **FORMS[form](of_target(rows, target)),
                        "spread": judged[target][form].spread,
                        "error_points": judged[target][form].points,
                        "covered": judged[target][form].covered,
                    }
                    for form in offered(judged[target])
                ]
            )
            for target in TARGETS
        },
        "decayed": {
            "below": border(rows),
            "told": [found, decayed],
            "wrongly": [wrong, others],
            "gains": middle([row.gain for row in rows if is_decayed(row)]),
            "gains_of_others": middle([row.gain for row in rows if not is_decayed(row)]),
        },
    }


def middle(gains: Sequence[float]) -> list[float]:
    """The lowest tenth, the median and the highest tenth of the shares by which losses were lower."""
    return [round(as_share(float(value)), 4) for value in np.quantile(gains, [0.1, 0.5, 0.9])]
