"""Finding the best of many models without evaluating all of them on everything: successive halving on a split.

All contenders are evaluated on the first round of the split's order, those that can still win on the next one, which is
four times as long, and so on; the last ones on the whole split (Jamieson and Talwalkar 2016, with a test in place of
the halves). A contender is given up

- at the end of a round, when it is beaten by the leader beyond doubt; see `is_beaten`;
- within the last round, when the rest of the split cannot lift it to the bar any more, which is certain: see
  `Evaluations.unless_below`.

Both rules are about means. They hold for a metric that rises with one (`Metric.rises_with`), and for the weighted mean
of such a mean over several sets (`evaluate.per_example`); for any other, all contenders are evaluated on the whole
split.

Rows of one family, such as the means of the last k, and steps along one line are kin: a neighbour of the best one is
nearly as good. There a race is cheap rather than certain. At the end of each round only those within `KIN_SIGMAS`
standard errors of the leader go on, and of many a share of 1/`GROWTH`, so that no round costs more than the first.

All ranks have the same values, so they decide the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.cache import GROWTH, Evaluations
from ladle_engine.evaluation.evaluate import Evaluation, per_example
from ladle_engine.progress import Pace
from ladle_engine.tasks.base import Metric

SIGMAS = 5.0
"""Standard errors by which the leader must be ahead. An equal model is dropped wrongly about once in 3.5 million."""
UNSEEN = 3
"""Examples, as bad for the leader as any could be, that may have been missed: of a kind that n examples do not show, up
to 3/n of all may be."""
FIRST_UNBOUNDED = 1024
"""Examples before anybody is given up for a metric without a finite range: a good model's loss is mostly that of a few
examples, and a small sample that misses them looks too certain. No rule is certain there, as one for accuracy is."""

KIN_SIGMAS = 2.0
"""Standard errors by which the leader must be ahead of its kin."""
KIN_KEPT = 2
"""Of a few kin, so many may go on."""


class _Told:
    """Who is told how far a race is, with the number of examples that it took."""

    def __init__(self, pace: Pace | None, evaluations: Evaluations) -> None:
        self._pace = pace
        self._evaluations = evaluations
        self._before = evaluations.num_judged

    def step(self, done: int) -> None:
        if self._pace is not None:
            self._pace.step(done, amount=self._evaluations.num_judged - self._before)


def race(
    evaluations: Evaluations,
    contenders: Sequence[Coefficients],
    split: str,
    metric: Metric,
    pace: Pace | None = None,
    *,
    kin: bool = False,
) -> int:
    """Collective: the index of the contender whose `rank_key` on the whole split is largest; of equals the first. Of
    `kin` it may be another one that is nearly as good.

    `pace` counts contenders times rounds. Raises as `Evaluations.first`.
    """
    left = list(range(len(contenders)))
    told = _Told(pace, evaluations)
    while len(left) > 1:
        winner, broken = _run(evaluations, [contenders[i] for i in left], split, metric, told, kin)
        if not broken:
            return left[winner]
        # What a broken one had beaten is in the race again; whatever was evaluated is remembered.
        left = [i for position, i in enumerate(left) if position not in broken]
    return left[0] if left else 0


def _run(
    evaluations: Evaluations, contenders: Sequence[Coefficients], split: str, metric: Metric, told: _Told, kin: bool
) -> tuple[int, set[int]]:
    """The winner, and those that turned out to have values that are not finite."""
    everybody = range(len(contenders))
    *rounds, _ = evaluations.rounds[split]
    sizes = evaluations.set_sizes(split)
    stands_for = per_example(metric, num_sets=len(sizes))
    if stands_for is None:
        # Nothing bounds what the rest of the examples may do to it.
        rounds = []
    elif math.isinf(metric.high - metric.low) and not kin:
        rounds = [end for end in rounds if min(evaluations.set_sizes(split, end)) >= FIRST_UNBOUNDED]
    running = list(everybody)
    for number, end in enumerate(rounds):
        if len(running) == 1:
            break
        known: dict[int, Evaluation] = {}
        for done, i in enumerate(running):
            known[i] = evaluations.first(contenders[i], split, end, metric)
            told.step(number * len(everybody) + done + 1)
        if broken := {i for i in running if not known[i].is_finite}:
            return running[0], broken
        assert stands_for is not None, "or there would be no round"
        sign = 1.0 if metric.higher_is_better else -1.0
        now = {i: known[i].first(end) for i in running}
        running = still_running(now, stands_for, sign, sizes, kin=kin)
        # The likely winner first: in the last round it sets the bar that the others must reach.
        running.sort(key=lambda i: now[i].rank_key(metric), reverse=True)
        if kin:
            running = running[: max(KIN_KEPT, math.ceil(len(now) / GROWTH))]
    winner, bar = running[0], _bar(evaluations, contenders[running[0]], split, metric, is_likely=bool(rounds))
    for done, i in enumerate(running[1:]):
        told.step(len(rounds) * len(everybody) + done + 1)
        evaluation = evaluations.unless_below(contenders[i], split, bar, metric)
        if evaluation is not None and (evaluation.rank_key(metric), -i) > (bar.rank_key(metric), -winner):
            winner, bar = i, evaluation
    told.step((len(rounds) + 1) * len(everybody))
    return winner, {i for i in running if not _is_finite(evaluations.known(contenders[i], split, metric))}


def _bar(evaluations: Evaluations, leader: Coefficients, split: str, metric: Metric, *, is_likely: bool) -> Evaluation:
    """Of the leader on the whole split. A checkpoint that is likely to win is evaluated as its file has it, which who
    judges it wants to know anyway, and not as directions give it, which would be once more."""
    if is_likely and leader.single() is not None:
        return evaluations.exactly(leader, {split: (evaluations.size(split), metric)})[split]
    return evaluations.whole(leader, split, metric)


def challenge(
    evaluations: Evaluations, contender: Coefficients, split: str, bar: Evaluation, metric: Metric
) -> Evaluation | None:
    """Collective: the contender's values on the whole split; None as soon as it cannot reach the bar's metric, or is
    `KIN_SIGMAS` standard errors below it at the end of a round. Raises as `Evaluations.first`."""
    *rounds, _ = evaluations.rounds[split]
    sizes = evaluations.set_sizes(split)
    if (name := per_example(metric, num_sets=len(sizes))) is not None:
        sign = 1.0 if metric.higher_is_better else -1.0
        for end in rounds:
            known = {0: bar.first(end), 1: evaluations.first(contender, split, end, metric).first(end)}
            if not known[1].is_finite or 1 not in still_running(known, name, sign, sizes, kin=True):
                return None
    return evaluations.unless_below(contender, split, bar, metric)


def still_running(
    known: Mapping[int, Evaluation], name: str, sign: float, sizes: Sequence[int], *, kin: bool = False
) -> list[int]:
    """Those that the leader has not beaten by the statistic `name`, of which more is better once it is multiplied by
    `sign`. All are known on the same examples; `sizes` are those of the sets."""
    values = {i: [(weight, sign * part.values[name]) for weight, part in each.sets] for i, each in known.items()}
    means = {i: sum(weight * float(rows.mean()) for weight, rows in each) for i, each in values.items()}
    leader = max(means, key=lambda i: means[i])
    sigmas, unseen = (KIN_SIGMAS, 0) if kin else (SIGMAS, UNSEEN)
    return [i for i in values if not is_beaten_over_sets(values[i], values[leader], sizes, sigmas, unseen)]


def is_beaten(contender: Tensor, leader: Tensor, size: int) -> bool:
    """Whether the leader's mean over all `size` examples is larger, beyond doubt; from n of them, drawn at random.

    The rule is an empirical Bernstein bound's (Maurer and Pontil 2009): the mean of the paired differences must exceed
    `SIGMAS` standard errors (without replacement, so they vanish as n grows to `size`), and still do so if `UNSEEN`
    further examples go against the leader by the whole range of values seen.
    """
    return is_beaten_over_sets([(1.0, contender)], [(1.0, leader)], [size])


def is_beaten_over_sets(
    contender: Sequence[tuple[float, Tensor]],
    leader: Sequence[tuple[float, Tensor]],
    sizes: Sequence[int],
    sigmas: float = SIGMAS,
    unseen: int = UNSEEN,
) -> bool:
    """The same for the weighted mean over several sets. Standard errors are added up, which is enough however the sets
    depend on each other."""
    ahead, doubt = 0.0, 0.0
    for (weight, own), (_, others), size in zip(contender, leader, sizes, strict=True):
        n = len(others)
        differences = others - own
        span = max(float(others.max() - others.min()), float(own.max() - own.min()))
        ahead += weight * (float(differences.mean()) - unseen * span / n)
        doubt += weight * sigmas * float(differences.std()) * math.sqrt((1 - n / size) / n)
    return ahead > doubt


def _is_finite(evaluation: Evaluation | None) -> bool:
    return evaluation is None or evaluation.is_finite
