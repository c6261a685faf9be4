from __future__ import annotations

import math

import torch

from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.gain import gain_over, pick, pick_winner
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.examples import split

ACCURACY = Metric(name="accuracy", higher_is_better=True)
LOSS = Metric(name="loss", higher_is_better=False)


def evaluation(accuracy: list[float], loss: list[float]) -> Evaluation:
    return Evaluation(
        metrics=(ACCURACY, LOSS),
        values={
            "accuracy": torch.tensor(accuracy, dtype=torch.float64),
            "loss": torch.tensor(loss, dtype=torch.float64),
        },
    )


def test_the_gain_is_the_mean_of_the_pairs_and_its_interval_that_of_a_paired_test() -> None:
    best = evaluation([1, 0, 0, 1], [0.1, 0.9, 0.8, 0.2])
    better = evaluation([1, 1, 0, 1], [0.1, 0.4, 0.7, 0.2])
    gain = gain_over(better, best, ACCURACY, seed=0)
    assert gain.value == 0.25
    # Differences 0, 1, 0, 0: standard deviation 0.5, standard error 0.25.
    assert math.isclose(gain.high - gain.value, 1.959963985 * 0.25, rel_tol=1e-9)
    assert math.isclose(gain.value - gain.low, gain.high - gain.value)


def test_a_lower_loss_is_a_positive_gain() -> None:
    gain = gain_over(evaluation([0, 0], [0.1, 0.2]), evaluation([0, 0], [0.3, 0.4]), LOSS, seed=0)
    assert math.isclose(gain.value, 0.2)


def test_a_tie_in_the_metric_is_broken_by_the_loss_and_then_by_order() -> None:
    first = evaluation([1, 0], [0.2, 0.9])
    lower_loss = evaluation([0, 1], [0.5, 0.4])
    assert pick([first, lower_loss], ACCURACY) == 1
    assert pick([first, first], ACCURACY) == 0


def test_a_model_with_a_loss_that_is_not_finite_never_wins() -> None:
    broken = evaluation([1, 1], [math.nan, 0.0])
    assert pick([evaluation([0, 0], [1.0, 1.0]), broken], ACCURACY) == 0


HALF = [1.0, 0.0] * 50


def constant(accuracy: list[float], loss: float) -> Evaluation:
    return evaluation(accuracy, [loss] * len(accuracy))


def test_among_those_that_the_metric_cannot_tell_apart_the_lowest_loss_wins() -> None:
    best = constant(HALF, 0.9)
    by_one = constant([1.0, *HALF[1:-1], 1.0], 0.7)
    by_two = constant([*HALF[:-3], 1.0, 1.0, 1.0], 0.8)
    assert pick([best, by_one, by_two], ACCURACY) == 2
    assert pick_winner([best, by_one, by_two], ACCURACY, seed=0) == 1
    assert pick_winner([constant(HALF, 0.6), by_one, by_two], ACCURACY, seed=0) == 0
    assert pick_winner([best, best], ACCURACY, seed=0) == 0


def test_what_is_worse_than_the_best_checkpoint_never_wins_by_its_loss() -> None:
    worse = constant([0.0, *HALF[1:]], 0.1)
    assert pick_winner([constant(HALF, 0.9), worse], ACCURACY, seed=0) == 0


def test_where_the_metric_can_tell_it_decides() -> None:
    far_ahead = constant([1.0] * 100, 2.0)
    lower_loss = constant([1.0, *HALF[1:-1], 1.0], 0.7)
    assert pick_winner([constant(HALF, 0.9), lower_loss, far_ahead], ACCURACY, seed=0) == 2
    assert pick_winner([constant(HALF, 0.9), lower_loss, constant([1.0] * 100, math.inf)], ACCURACY, seed=0) == 1


def test_a_loss_that_judges_decides_itself() -> None:
    assert pick_winner([constant(HALF, 0.9), constant(HALF, 0.8), constant(HALF, 0.7)], LOSS, seed=0) == 2


def test_the_splits_are_disjoint_cover_all_and_depend_on_the_seed_alone() -> None:
    fit, select = split(101, 0.3, seed=7)
    assert len(select) == 30
    assert sorted([*fit.tolist(), *select.tolist()]) == list(range(101))
    assert torch.equal(split(101, 0.3, seed=7)[1], select)
    assert not torch.equal(split(101, 0.3, seed=8)[1], select)
