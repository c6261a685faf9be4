"""Judging candidates on the select split: the gain over the best checkpoint, with a paired interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from ladle_engine.evaluation.bootstrap import paired_differences, percentiles
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.tasks.base import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Gain:
    """By how much a candidate is better than the best checkpoint; oriented so that more is better."""

    value: float
    low: float
    high: float


def gain_over(candidate: Evaluation, best: Evaluation, metric: Metric, seed: int) -> Gain:
    """The difference on the same examples, with its 95 % interval: of a paired z-test for a mean, else of a paired
    bootstrap, which is seeded.

    Pairing takes out what both models find hard, which is most of the variance. Needs two examples at least.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    value = sign * (candidate.score(metric) - best.score(metric))
    if metric.of is not None:
        low, high = percentiles(sign * paired_differences(candidate, best, metric, seed), CONFIDENCE)
        return Gain(value=value, low=low, high=high)
    difference = candidate.values[metric.name] - best.values[metric.name]
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    half = z * float(difference.std()) / math.sqrt(len(difference))
    mean = sign * float(difference.mean())
    return Gain(value=mean, low=mean - half, high=mean + half)


def pick(evaluations: list[Evaluation], metric: Metric) -> int:
    """The index of the winner on the select split; of equals the first, so the order of candidates breaks ties."""
    keys = [evaluation.rank_key(metric) for evaluation in evaluations]
    return max(range(len(keys)), key=lambda i: (keys[i], -i))
