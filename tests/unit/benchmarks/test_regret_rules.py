"""Rules that choose a candidate: each on a case in which they differ."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.regret_rules import (
    CONTENDER,
    METRIC_ALONE,
    NO_PROMISE,
    RULES,
    Case,
    Cost,
    Row,
    ahead,
    costs,
    decided,
    halved,
    verdict,
)

HALF = [1.0, 0.0] * 50


def row(method: str, right: list[float], loss: float, *, spread: float = 4.0, test: tuple[float, float]) -> Row:
    values = torch.tensor(right, dtype=torch.float64)
    return Row(
        method=method,
        metric_values=values,
        loss_values=torch.linspace(loss - 0.1, loss + 0.1, len(values), dtype=torch.float64),
        spread=spread,
        test_metric=test[0],
        test_loss=test[1],
    )


def case(name: str = "digits", *rows: Row) -> Case:
    return Case(set=name, seed=0, num_select=100, by_loss=False, rows=rows or ROWS)


ROWS = (
    row("best", HALF, 0.9, spread=1.0, test=(0.50, 0.8)),
    # Better than the best checkpoint by one example, which tells nothing.
    row("uniform", [1.0, *HALF[1:-1], 1.0], 0.8, spread=8.0, test=(0.55, 0.6)),
    # By two.
    row("ema", [*HALF[:-3], 1.0, 1.0, 1.0], 0.7, test=(0.51, 0.7)),
    # The lowest loss of all, but worse than the best checkpoint by the metric.
    row("twa", [0.0, 0.0, *HALF[2:]], 0.1, test=(0.40, 0.5)),
)


def test_each_rule_chooses_by_what_it_is_named_after() -> None:
    found = decided(case()).chosen
    assert found["metric alone"] == "ema"
    assert found["lowest loss"] == "ema"
    assert found["simplest among, 95 %"] == "best"
    assert found["simplest average among, 95 %"] == "uniform"
    assert found["most checkpoints among, 95 %"] == "uniform"
    assert found["always uniform"] == "uniform"
    assert found["always twa"] == "best"


def test_no_rule_returns_what_is_worse_than_the_best_checkpoint_by_the_metric() -> None:
    made = case()
    assert all(rule(made).metric >= made.rows[0].metric for name, rule in RULES.items() if name != NO_PROMISE)
    assert RULES[NO_PROMISE](made).method == "twa"


def test_among_those_that_the_metric_tells_apart_it_decides() -> None:
    better = row("ema", [1.0] * 100, 0.9, test=(0.9, 0.9))
    found = decided(case("digits", ROWS[0], ROWS[1], better)).chosen
    assert {found[name] for name in found if "among" in name} == {"ema"}
    assert found["lowest loss"] == "uniform"


def test_a_mean_is_ahead_by_the_paired_standard_error() -> None:
    one, other = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    # Differences 1, 0, 0, 0: mean 0.25, standard error 0.25.
    assert ahead(one, other, 0.99)
    assert not ahead(one, other, 1.01)


def test_regret_is_against_the_best_on_the_test_set() -> None:
    assert decided(case()).chosen[METRIC_ALONE] == "ema"
    metric, loss = decided(case()).regret(METRIC_ALONE)
    assert metric == pytest.approx(0.04)
    assert loss == pytest.approx(0.7 / 0.5 - 1)


def test_costs_are_means_over_sets_whose_own_cases_are_averaged_first() -> None:
    better = case("mnist", ROWS[0], ROWS[1], row("ema", [1.0] * 100, 0.6, test=(0.9, 0.5)))
    all_costs = costs([decided(each) for each in (case(), case(), better)])
    (found,) = (each for each in all_costs if each.rule == METRIC_ALONE)
    assert found.metric == pytest.approx((0.02, 0.02))
    assert found.metric_less == (0.0, 0.0)
    assert found.changed == 0
    (simple,) = (each for each in all_costs if each.rule == "simplest among, 95 %")
    assert simple.changed == 2
    assert simple.metric_less[0] == pytest.approx((-0.01 + 0.0) / 2)
    assert not math.isnan(simple.metric[1])


def test_a_half_has_the_same_examples_for_all_candidates_and_depends_on_the_seed_alone() -> None:
    made = case("digits", ROWS[0], ROWS[1])
    halves = halved(made, 3)
    assert [half.num_select for half in halves] == [50, 50, 50]
    for half, again in zip(halves, halved(made, 3), strict=True):
        best, uniform = half.rows
        # They differ in the last example alone.
        assert int((best.metric_values != uniform.metric_values).sum()) <= 1
        assert torch.allclose(best.loss_values - 0.9, uniform.loss_values - 0.8)
        assert torch.equal(best.metric_values, again.rows[0].metric_values)
    assert not torch.equal(halves[0].rows[0].loss_values, halves[1].rows[0].loss_values)


@pytest.mark.parametrize(
    ("loss_less", "metric_less", "told"),
    [
        ((0.021, 0.010), (0.0, 0.01), "that holds."),
        ((0.019, 0.010), (0.1, 0.01), "that does not hold."),
        ((0.021, 0.010), (-0.001, 0.01), "that does not hold."),
    ],
)
def test_the_contender_is_adopted_for_a_lower_loss_beyond_two_standard_errors_that_costs_no_metric(
    loss_less: tuple[float, float], metric_less: tuple[float, float], told: str
) -> None:
    nothing = Cost(
        rule=METRIC_ALONE, metric=(0.0, 0.0), loss=(0.0, 0.0), metric_less=(0.0, 0.0), loss_less=(0.0, 0.0), changed=0
    )
    contender = replace(nothing, rule=CONTENDER, metric_less=metric_less, loss_less=loss_less)
    assert verdict([nothing, contender]).endswith(told)
