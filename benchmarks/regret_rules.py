"""Rules that choose one candidate by what the select split shows, and what each costs on the test set."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CAN_TELL = {"1 SE": 1.0, "95 %": 1.96, "95 % at once": 2.69}
"""Standard errors of the paired difference by which the metric must tell two candidates apart; the last is that of
seven candidates at once (Bonferroni)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate; values per example are oriented as the metric is."""

    method: str
    metric_values: Tensor
    """float64 [N] on the select split, oriented: more is better."""
    loss_values: Tensor
    """float64 [N]"""
    spread: float
    """The effective number of checkpoints, 1 / sum of squares of their weights."""
    test_metric: float
    """Oriented."""
    test_loss: float

    @property
    def metric(self) -> float:
        return float(self.metric_values.mean())

    @property
    def loss(self) -> float:
        return float(self.loss_values.mean())


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job: a set, with some of its validation data. `rows` are in the order of methods, `best` first."""

    set: str
    seed: int
    num_select: int
    by_loss: bool
    """The metric is the loss."""
    rows: tuple[Row, ...]

    @property
    def allowed(self) -> list[Row]:
        """Those that are not worse than the best checkpoint by the metric: what is promised."""
        return [row for row in self.rows if row.metric >= self.rows[0].metric]

    @property
    def top(self) -> Row:
        """By the metric, then the loss, then the order of methods."""
        return max(self.rows, key=lambda row: (row.metric, -row.loss))

    def not_told_apart(self, sigmas: float, *, promised: bool = True) -> list[Row]:
        """Of those allowed (of all, where nothing is promised) the ones that the metric cannot tell from its best."""
        top = self.top
        rows = self.allowed if promised else self.rows
        return [row for row in rows if not ahead(top.metric_values, row.metric_values, sigmas)]


def halved(case: Case, draws: int) -> list[Case]:
    """The choice repeated on random halves of the select split, between candidates that stay what they are."""
    generator = torch.Generator().manual_seed(case.seed)
    found = []
    for _ in range(draws):
        half = torch.randperm(case.num_select, generator=generator)[: case.num_select // 2]
        rows = tuple(
            replace(row, metric_values=row.metric_values[half], loss_values=row.loss_values[half]) for row in case.rows
        )
        found.append(replace(case, num_select=len(half), rows=rows))
    return found


def ahead(one: Tensor, other: Tensor, sigmas: float) -> bool:
    """Whether the mean of `one` is larger by more than so many standard errors of the paired difference."""
    differences = one - other
    return float(differences.mean()) > sigmas * float(differences.std()) / math.sqrt(len(differences))


Rule = Callable[[Case], Row]


def metric_alone(case: Case) -> Row:
    return case.top


def lowest_loss(case: Case) -> Row:
    return min(case.allowed, key=lambda row: row.loss)


def among(choose: Callable[[Sequence[Row]], Row], sigmas: float) -> Rule:
    """The rule that chooses among those that the metric cannot tell from its best."""
    return lambda case: choose(case.not_told_apart(sigmas))


def lowest_loss_promising_nothing(case: Case) -> Row:
    """What the promise costs: it may be worse than the best checkpoint on the select split, where that was lucky."""
    return by_loss(case.not_told_apart(CAN_TELL["95 %"], promised=False))


def loss_if_told(case: Case) -> Row:
    """Today's, unless one of those that the metric cannot tell from it has a lower loss beyond doubt."""
    top, sigmas = case.top, CAN_TELL["95 %"]
    lower = [row for row in case.not_told_apart(sigmas) if ahead(top.loss_values, row.loss_values, sigmas)]
    return min(lower, key=lambda row: row.loss) if lower else top


def by_loss(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row.loss)


def simplest(rows: Sequence[Row]) -> Row:
    return rows[0]


def simplest_average(rows: Sequence[Row]) -> Row:
    """The first that is no single checkpoint, if there is one."""
    return next((row for row in rows if row.spread > 1 + 1e-9), rows[0])


def most_spread(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: row.spread)


def always(method: str) -> Rule:
    """This method, where it is not worse than the best checkpoint."""
    return lambda case: next((row for row in case.allowed if row.method == method), case.rows[0])


METRIC_ALONE = "metric alone"
CONTENDER = "lowest loss among, 95 %"
NO_PROMISE = "lowest loss among, 95 %, worse than the best checkpoint or not"
RULES: dict[str, Rule] = {
    METRIC_ALONE: metric_alone,
    "lowest loss": lowest_loss,
    **{f"lowest loss among, {level}": among(by_loss, sigmas) for level, sigmas in CAN_TELL.items()},
    "lowest loss among, 95 %, if the loss can tell": loss_if_told,
    **{f"simplest among, {level}": among(simplest, sigmas) for level, sigmas in CAN_TELL.items()},
    **{f"simplest average among, {level}": among(simplest_average, sigmas) for level, sigmas in CAN_TELL.items()},
    "most checkpoints among, 95 %": among(most_spread, CAN_TELL["95 %"]),
    NO_PROMISE: lowest_loss_promising_nothing,
    **{f"always {method}": always(method) for method in ("uniform", "greedy-soup", "twa", "twa-layerwise")},
    "always the best checkpoint": always("best"),
}


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What each rule returned in one case, and what every candidate is worth on the test set: all that costs need."""

    set: str
    seed: int
    num_select: int
    by_loss: bool
    chosen: Mapping[str, str]
    """Rule -> the method that it chose."""
    test: Mapping[str, tuple[float, float]]
    """Method -> the test metric, oriented, and the test loss."""

    def regret(self, rule: str) -> tuple[float, float]:
        """By how much the best candidate by the test metric is better (in the metric's units), and by how much the
        lowest test loss of all is lower (a share)."""
        metrics, losses = zip(*self.test.values(), strict=True)
        metric, loss = self.test[self.chosen[rule]]
        return max(metrics) - metric, loss / min(losses) - 1


def decided(case: Case) -> Decided:
    return Decided(
        set=case.set,
        seed=case.seed,
        num_select=case.num_select,
        by_loss=case.by_loss,
        chosen={name: rule(case).method for name, rule in RULES.items()},
        test={row.method: (row.test_metric, row.test_loss) for row in case.rows},
    )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one rule, over sets: means with their standard errors."""

    rule: str
    metric: tuple[float, float]
    """Regret in the test metric."""
    loss: tuple[float, float]
    """Regret in the test loss, a share."""
    metric_less: tuple[float, float]
    """By how much the regret is less than that of the metric alone, paired by set."""
    loss_less: tuple[float, float]
    changed: int
    """Cases in which it chooses another candidate than the metric alone."""


def costs(cases: Sequence[Decided]) -> list[Cost]:
    """A set's cases are averaged first: they share checkpoints and test data."""
    found = []
    base = [case.regret(METRIC_ALONE) for case in cases]
    for name in RULES:
        regrets = [case.regret(name) for case in cases]
        columns = []
        for index in (0, 1):
            columns.append(_over_sets(cases, [regret[index] for regret in regrets]))
            less = [before[index] - regret[index] for before, regret in zip(base, regrets, strict=True)]
            columns.append(_over_sets(cases, less))
        found.append(
            Cost(
                rule=name,
                metric=columns[0],
                metric_less=columns[1],
                loss=columns[2],
                loss_less=columns[3],
                changed=sum(case.chosen[name] != case.chosen[METRIC_ALONE] for case in cases),
            )
        )
    return found


def _over_sets(cases: Iterable[Decided], values: Iterable[float]) -> tuple[float, float]:
    by_set: dict[tuple[str, int], list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        by_set.setdefault((case.set, case.seed), []).append(value)
    means = [statistics.mean(each) for each in by_set.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return statistics.mean(means), error


def verdict(found: Sequence[Cost]) -> str:
    """Whether the contender is better, by what was written down before the fresh sets were judged; see `regret.py`."""
    (contender,) = (cost for cost in found if cost.rule == CONTENDER)
    (metric, metric_error), (loss, loss_error) = contender.metric_less, contender.loss_less
    holds = loss > 2 * loss_error and metric >= 0
    return (
        f"Against the metric alone, the rule *{CONTENDER}* has less regret on them by {100 * loss:.2f} ± "
        f"{100 * loss_error:.2f} % of the test loss and by {100 * metric:.2f} ± {100 * metric_error:.2f} points of the "
        f"test metric. To be adopted, the first must be more than two standard errors (it is {loss / loss_error:.2f}) "
        f"and the second not less than 0: that {'holds' if holds else 'does not hold'}."
    )
