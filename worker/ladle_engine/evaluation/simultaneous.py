"""Intervals that stay right although the winner, and the checkpoint it is compared with, were picked on the examples
that judge: by the max-t multiplier bootstrap (Chernozhukov, Chetverikov and Kato 2013, section 4).

What is stated is `m(winner) - m(best)`: by how much the model that is returned is better, on the population of which
the select split is a sample, than the checkpoint that was best on that split. Both were picked there. Let `t(j, i)` be
the error of the difference between average j and checkpoint i, in its standard errors. An interval reaches from `low`
standard errors below what was measured to `high` above it:

- `low` is the 97.5 % point of `max_j t(j, best*)` over all averages that were tried. A lucky bar makes a measured gain
  smaller, not larger: in each draw `best*` is the checkpoint that is best with its errors added. As measured means lie
  further apart than true ones, it is more often the same than in truth, which is cautious;
- `high` is that of `max_(j, i) -t(j, i)` over all checkpoints and the candidates. That a candidate was picked among
  others makes a measured gain larger, so those do not count here.

So in 95 % of all cases neither end is wrong for any candidate, whatever the rule that picks among them. What is beaten
as in a race, by five standard errors, could not have been picked and does not count. What a race gave up otherwise
counts by the examples that it was evaluated on: that makes it less like the others than it is, which is cautious.

B draws; M averages and K checkpoints that are known on all examples, and P and Q that are known on a part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from torch import Tensor

from ladle_engine.evaluation.error_draws import added_up, centred, draw_errors, set_sizes
from ladle_engine.evaluation.evaluate import Evaluation, per_example
from ladle_engine.evaluation.gain import CONFIDENCE, Gain, gain_within, value_over
from ladle_engine.evaluation.racing import is_beaten_over_sets
from ladle_engine.tasks.base import Metric

POWER = 0.8
ONE = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
"""Standard errors of the interval of one comparison: 1.96."""
UNSEEN = 2
"""Examples, one for either side, whose difference is the largest seen; see `_standard_errors`."""
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Compared:
    """All that was evaluated on the select split, or on one set of it."""

    best: Evaluation
    candidates: Sequence[Evaluation]
    """Those that the method returns an interval for; known on all examples, as the best checkpoint is."""
    averages: Sequence[Evaluation] = ()
    """Others, which may be known on a part of the examples."""
    checkpoints: Sequence[Evaluation] = ()
    """The same, of single checkpoints."""

    def on_set(self, number: int) -> Compared:
        """On one of several sets."""

        def parts(group: Sequence[Evaluation]) -> list[Evaluation]:
            return [part for each in group if len(part := each.sets[number][1])]

        return Compared(
            best=self.best.sets[number][1],
            candidates=parts(self.candidates),
            averages=parts(self.averages),
            checkpoints=parts(self.checkpoints),
        )


@dataclass(frozen=True, kw_only=True)
class Simultaneous:
    """What holds for all candidates at once."""

    gains: tuple[Gain, ...]
    """Of each candidate."""
    errors: tuple[float, ...]
    """The standard error of each."""
    low: float
    high: float
    """How many standard errors an interval reaches down and up."""
    averages: int
    checkpoints: int
    """How many were counted, candidates and the best one among them."""
    in_part: int
    """How many of these are known on a part of the examples."""

    def visible(self, candidate: int) -> float:
        """The gain that as many examples show with a probability of 80 %, which is the power."""
        return (self.low + NormalDist().inv_cdf(POWER)) * self.errors[candidate]

    def needed(self, candidate: int, size: int) -> int | None:
        """How many examples show a gain of the size that was measured on `size` of them, with that power. None where
        nothing was measured, or nothing varies."""
        gain, visible = abs(self.gains[candidate].value), self.visible(candidate)
        return math.ceil(size * (visible / gain) ** 2) if gain and visible else None


def simultaneous(compared: Compared, metric: Metric, seed: int) -> Simultaneous:
    """Seeded, and the same on all ranks. All values must be finite; needs two examples of each set at least."""
    counted = _without_beaten(compared, metric)
    size = len(compared.best)
    averages, ahead = _whole_and_parts(counted.averages, size)
    checkpoints, beside = _whole_and_parts(counted.checkpoints, size)
    bars, candidates = [compared.best, *checkpoints], compared.candidates
    draws = draw_errors([*bars, *candidates, *averages], [*ahead, *beside], metric, seed)
    sign = 1.0 if metric.higher_is_better else -1.0
    bars_BK, candidates_BM, averages_BM = (sign * draws.whole_BM).split(
        [*map(len, (bars, candidates, averages))], dim=1
    )
    ahead_BP, beside_BQ = (sign * draws.parts_BP).split([len(ahead), len(beside)], dim=1)
    means_K = sign * torch.tensor([each.score(metric) for each in bars], dtype=torch.float64)
    low, high = factors(bars_BK, means_K, candidates_BM, averages_BM, ahead_BP, beside_BQ)
    errors = [
        _standard_errors(each, compared.best, metric) if metric.of is None else (float(error), float(error))
        for each, error in zip(candidates, (candidates_BM - bars_BK[:, :1]).std(dim=0), strict=True)
    ]
    return Simultaneous(
        gains=tuple(
            _gain(each, compared.best, metric, low * wide, high * wide)
            for each, (_, wide) in zip(candidates, errors, strict=True)
        ),
        errors=tuple(error for error, _ in errors),
        low=low,
        high=high,
        averages=len(candidates) + len(averages) + len(ahead),
        checkpoints=len(bars) + len(beside),
        in_part=len(ahead) + len(beside),
    )


def factors(
    bars_BK: Tensor,
    means_K: Tensor,
    candidates_BM: Tensor,
    averages_BM: Tensor,
    ahead_BP: Tensor,
    beside_BQ: Tensor,
) -> tuple[float, float]:
    """`low` and `high`, from draws of the errors of the checkpoints, the best one first, of the candidates and of other
    averages, and of the differences to the best checkpoint of averages and checkpoints that are known on a part.

    `means_K` are the checkpoints' scores; more is better in all.
    """
    picked_B = (bars_BK + means_K).argmax(dim=1)
    low = _point(*(_to_picked(each, bars_BK, picked_B) for each in (candidates_BM, averages_BM)), ahead_BP)
    return low, _point(_largest(bars_BK, candidates_BM), beside_BQ)


def _gain(candidate: Evaluation, best: Evaluation, metric: Metric, below: float, above: float) -> Gain:
    value = value_over(candidate, best, metric)
    return gain_within(metric, value, value - below, value + above)


def _whole_and_parts(group: Sequence[Evaluation], size: int) -> tuple[list[Evaluation], list[Evaluation]]:
    return [each for each in group if len(each) == size], [each for each in group if len(each) < size]


def _point(*maxima: Tensor) -> float:
    """The point that the largest of all exceeds in 2.5 % of the draws; never less than for one comparison."""
    largest_B = torch.cat([each.double().reshape(len(each), -1) for each in maxima], dim=1).amax(dim=1)
    return max(ONE, float(torch.quantile(largest_B, 0.5 + CONFIDENCE / 2)))


def _spread(ones_BM: Tensor, others_BK: Tensor) -> Tensor:
    """[M, K]: the standard deviation of each difference; infinite where there is none, as of a model and itself."""
    ones_BM, others_BK = (each - each.mean(dim=0) for each in (ones_BM, others_BK))
    sums_MK = ones_BM.square().sum(dim=0)[:, None] + others_BK.square().sum(dim=0)
    squares_MK = sums_MK - 2 * ones_BM.T @ others_BK
    return torch.where(squares_MK > ROUNDING * sums_MK, squares_MK, torch.inf).div(len(ones_BM) - 1).sqrt()


def _to_picked(ones_BM: Tensor, others_BK: Tensor, picked_B: Tensor) -> Tensor:
    """[B, M]: the difference of each to the other one that was picked in a draw, in its standard errors."""
    differences_BM = ones_BM - others_BK.gather(1, picked_B[:, None])
    return differences_BM / _spread(ones_BM, others_BK)[:, picked_B].T


def _largest(ones_BM: Tensor, others_BK: Tensor) -> Tensor:
    """float32 [B]: the largest of all differences, each in its standard errors."""
    ones_BM, others_BK, per_MK = ones_BM.float(), others_BK.float(), _spread(ones_BM, others_BK).reciprocal().float()
    if ones_BM.shape[1] > others_BK.shape[1]:
        ones_BM, others_BK, per_MK = -others_BK, -ones_BM, per_MK.T
    largest_B = ones_BM.new_full((len(ones_BM),), -torch.inf)
    for one_B, per_K in zip(ones_BM.T, per_MK, strict=True):
        torch.maximum(largest_B, (one_B[:, None] - others_BK).mul_(per_K).amax(dim=1), out=largest_B)
    return largest_B


def _standard_errors(candidate: Evaluation, best: Evaluation, metric: Metric) -> tuple[float, float]:
    """Of a mean: that of the paired differences, and one that also counts what a small sample does not show.

    Where models differ on one example in a hundred, a hundred examples may show no difference. So two are added that
    go against each other by the largest difference seen (Bonett and Price 2012, for paired proportions), or that there
    can be where none was.
    """
    sizes = set_sizes(best)
    pairs = zip(*(added_up(each, metric.name, sizes) for each in (candidate, best)), strict=True)
    differences = [own - others for own, others in pairs]
    variance = sum(float(each.square().sum()) for each in centred(differences))
    span = metric.high - metric.low
    largest = [float(each.abs().max()) or (span if math.isfinite(span) else 0.0) for each in differences]
    unseen = sum(
        UNSEEN * most**2 / (len(each) * (len(each) - 1)) for most, each in zip(largest, differences, strict=True)
    )
    return math.sqrt(variance), math.sqrt(variance + unseen)


def _without_beaten(compared: Compared, metric: Metric) -> Compared:
    """Without what is so far behind that it could not have been picked: averages behind the best of all, checkpoints
    behind the best one. Nobody is, where no mean stands for the metric."""
    name = per_example(metric, num_sets=len(compared.best.sets))
    if name is None:
        return compared
    sign = 1.0 if metric.higher_is_better else -1.0
    leader = max([compared.best, *compared.candidates], key=lambda each: sign * each.score(metric))

    def left(group: Sequence[Evaluation], ahead: Evaluation) -> list[Evaluation]:
        return [each for each in group if not _is_beaten(each, ahead.first(len(each)), name, sign)]

    return replace(
        compared,
        averages=left(compared.averages, leader),
        checkpoints=left(compared.checkpoints, compared.best),
    )


def _is_beaten(contender: Evaluation, leader: Evaluation, name: str, sign: float) -> bool:
    own, others = ([(weight, sign * part.values[name]) for weight, part in each.sets] for each in (contender, leader))
    # Of the population, not of the split.
    return all(len(rows) > 1 for _, rows in own) and is_beaten_over_sets(own, others, [sys.maxsize] * len(own))
