"""Against scikit-learn, scipy and torchmetrics, on a set and on samples of it with replacement."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ladle_engine.evaluation.bootstrap import samples
from ladle_engine.tasks import classification_metrics as ours

sklearn_metrics = pytest.importorskip("sklearn.metrics")
scipy_stats = pytest.importorskip("scipy.stats")


def on_samples(of: Any, values: dict[str, Tensor], reference: Callable[..., float], number: int = 40) -> None:
    """The set itself, then samples with replacement: each as the reference says of the examples drawn."""
    count = len(values["label"])
    doubles = {name: each.to(torch.float64) for name, each in values.items()}
    weights = torch.cat([torch.ones(1, count, dtype=torch.float64), *samples(count, number, seed=1)])
    found = of(doubles, weights)
    for row, score in zip(weights.to(torch.int64), found, strict=True):
        drawn = {name: torch.repeat_interleave(each, row, dim=0).numpy() for name, each in values.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = reference(drawn["label"], drawn["predicted"])
        assert float(score) == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-10)


def classes(number: int, count: int = 50, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, number, (count,), generator=generator)
    guess = torch.randint(0, number, (count,), generator=generator)
    return {"label": label, "predicted": torch.where(torch.rand(count, generator=generator) < 0.6, label, guess)}


@pytest.mark.parametrize(("number", "count"), [(2, 50), (3, 50), (7, 50), (30, 12), (2, 3)])
def test_macro_f1_and_mcc_are_scikit_learns(number: int, count: int) -> None:
    values = classes(number, count)
    on_samples(ours.macro_f1, values, lambda true, guess: sklearn_metrics.f1_score(true, guess, average="macro"))
    on_samples(ours.matthews, values, sklearn_metrics.matthews_corrcoef)


def test_f1_of_two_classes_is_that_of_class_1() -> None:
    on_samples(ours.binary_f1, classes(2), sklearn_metrics.f1_score)
    on_samples(ours.binary_f1, classes(2, count=3), sklearn_metrics.f1_score)


def test_a_model_that_says_one_class_for_everything_has_no_correlation() -> None:
    values = {"label": torch.tensor([0.0, 1, 2]), "predicted": torch.zeros(3)}
    assert ours.matthews(values, torch.ones(1, 3)).tolist() == [0.0]
    assert ours.pearson(values, torch.ones(1, 3)).tolist() == [0.0]
    assert ours.spearman(values, torch.ones(1, 3)).tolist() == [0.0]


@pytest.mark.parametrize(("digits", "shift"), [(6, 0.0), (0, 0.0), (3, 1e8)])
def test_correlations_are_scipys_with_ties_and_without(digits: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randn(40, generator=generator, dtype=torch.float64)
    predicted = label + torch.randn(40, generator=generator, dtype=torch.float64)
    values = {"label": label.round(decimals=digits) + shift, "predicted": predicted.round(decimals=digits) + shift}

    def checked(function: Any) -> Callable[..., float]:
        return lambda true, guess: float(function(true - shift, guess - shift).statistic)

    on_samples(ours.spearman, values, checked(scipy_stats.spearmanr))
    values = {name: each - shift for name, each in values.items()}
    on_samples(ours.pearson, values, lambda true, guess: float(scipy_stats.pearsonr(true, guess).statistic))


@pytest.mark.parametrize("num_labels", [1, 5, 48, 49, 130])
def test_f1_of_sets_of_labels_is_scikit_learns(num_labels: int) -> None:
    generator = torch.Generator().manual_seed(num_labels)
    label, predicted = (torch.rand(30, num_labels, generator=generator) < chance for chance in (0.3, 0.4))
    values = {"label": ours.packed(label), "predicted": ours.packed(predicted)}
    sets = ours.SetsOfLabels(num_labels)

    def reference(average: str) -> Callable[..., float]:
        def score(true: Any, guess: Any) -> float:
            unpacked = [sets._unpacked(torch.from_numpy(each)).numpy() for each in (true, guess)]
            return float(sklearn_metrics.f1_score(*unpacked, average=average, zero_division=0))

        return score

    assert torch.equal(sets._unpacked(values["label"].to(torch.float64)), label)
    on_samples(sets.micro_f1, values, reference("micro" if num_labels > 1 else "binary"), number=10)
    on_samples(sets.macro_f1, values, reference("macro" if num_labels > 1 else "binary"), number=10)


def test_they_are_torchmetrics_too() -> None:
    functional = pytest.importorskip("torchmetrics.functional")
    values = classes(5)
    doubles, ones = {name: each.double() for name, each in values.items()}, torch.ones(1, 50, dtype=torch.float64)
    arguments = (values["predicted"], values["label"])
    theirs = {
        ours.macro_f1: functional.f1_score(*arguments, task="multiclass", num_classes=5, average="macro"),
        ours.matthews: functional.matthews_corrcoef(*arguments, task="multiclass", num_classes=5),
    }
    for of, expected in theirs.items():
        assert float(of(doubles, ones)) == pytest.approx(float(expected), abs=1e-6)
    numbers = {"label": torch.randn(50).double(), "predicted": torch.randn(50).double()}
    assert float(ours.pearson(numbers, ones)) == pytest.approx(
        float(functional.pearson_corrcoef(numbers["predicted"], numbers["label"])), abs=1e-6
    )
    assert float(ours.spearman(numbers, ones)) == pytest.approx(
        float(functional.spearman_corrcoef(numbers["predicted"], numbers["label"])), abs=1e-6
    )
