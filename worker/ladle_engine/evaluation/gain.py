"""Judging candidates on the select split: the gain over the best checkpoint, with a paired interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

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

    @property
    def includes_zero(self) -> bool:
        return self.low <= 0 <= self.high


def gain_over(candidate: Evaluation, best: Evaluation, metric: Metric, seed: int) -> Gain:
    """The difference on the same examples, with its 95 % interval: of a paired z-test for a mean, else of a paired
    bootstrap, which is seeded. Of several sets, that of the weighted mean of their scores.

    Pairing takes out what both models find hard, which is most of the variance. Needs two examples of each set at
    least.
    """
    value = value_over(candidate, best, metric)
    if metric.of is not None:
        sign = 1.0 if metric.higher_is_better else -1.0
        low, high = percentiles(sign * paired_differences(candidate, best, metric, seed), CONFIDENCE)
        return gain_within(metric, value, low, high)
    half = _half_width(_differences(candidate, best, metric))
    return gain_within(metric, value, value - half, value + half)


def gain_within(metric: Metric, value: float, low: float, high: float) -> Gain:
    """No gain is larger than the metric's range, however few the examples."""
    most = metric.high - metric.low
    return Gain(value=value, low=max(low, -most), high=min(high, most))


def value_over(candidate: Evaluation, best: Evaluation, metric: Metric) -> float:
    """The difference itself; positive where the candidate is better."""
    if metric.of is not None:
        value = candidate.score(metric) - best.score(metric)
    else:
        value = sum(float(each.mean()) for each in _differences(candidate, best, metric))
    return value if metric.higher_is_better else -value


def _differences(candidate: Evaluation, best: Evaluation, metric: Metric) -> list[Tensor]:
    """Of each set, weighted."""
    pairs = zip(candidate.sets, best.sets, strict=True)
    return [weight * (part.values[metric.name] - bar.values[metric.name]) for (weight, part), (_, bar) in pairs]


def _half_width(differences: Sequence[Tensor]) -> float:
    """Of the interval of the sum of the means of each set's weighted differences.

    Sets of one size may be versions of the same examples, in one order, whose errors do not cancel out: they are added
    up pair by pair, which is as right where they are others.
    """
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    sizes = dict.fromkeys(len(difference) for difference in differences)
    added = [torch.stack([each for each in differences if len(each) == size]).sum(dim=0) for size in sizes]
    return math.hypot(*(z * float(each.std()) / math.sqrt(len(each)) for each in added))


def pick_winner(evaluations: Sequence[Evaluation], metric: Metric, seed: int) -> int:
    """The index of what is returned, of candidates of which the first is the best checkpoint.

    The metric decides where it can: of those that it cannot tell from its best one with 95 % (in a comparison of the
    two), and that are no worse than the best checkpoint, the lowest loss; of equals the first.
    """
    bar, top = evaluations[0], evaluations[pick(evaluations, metric)]

    def may_win(each: Evaluation) -> bool:
        is_as_good = each.rank_key(metric)[0] >= bar.rank_key(metric)[0]
        return each is top or (each.is_finite and is_as_good and gain_over(top, each, metric, seed).low <= 0)

    return min((i for i, each in enumerate(evaluations) if may_win(each)), key=lambda i: (evaluations[i].loss, i))


def pick(evaluations: Sequence[Evaluation], metric: Metric) -> int:
    """The index of the winner on the select split; of equals the first, so the order of candidates breaks ties."""
    keys = [evaluation.rank_key(metric) for evaluation in evaluations]
    return max(range(len(keys)), key=lambda i: (keys[i], -i))
