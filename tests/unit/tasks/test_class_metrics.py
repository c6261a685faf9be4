"""Metrics of classifiers are those of scikit-learn and torchmetrics, and functions of a few numbers per example."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score
from torch import Tensor

from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.vision.class_metrics import CLASS_METRICS, class_statistics, ranks

torchmetrics = pytest.importorskip("torchmetrics")


def made(count: int, classes: int, seed: int = 0, sharp: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits that are better than chance, and labels of which some classes may have none."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) * sharp
    logits[torch.arange(count), labels] += 1.0
    return logits, labels


def value(name: str, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """float64 [R]"""
    metric: Metric = next(each for each in CLASS_METRICS if each.name == name)
    values = {name: each.to(torch.float64) for name, each in class_statistics(logits, labels).items()}
    weights = torch.ones(1, len(labels), dtype=torch.float64) if weights is None else weights
    if metric.of is None:
        return weights @ values[name] / weights.sum(dim=1)
    return metric.of({name: values[name] for name in metric.statistics}, weights)


SHAPES = [(500, 10), (40, 30), (9, 2), (1000, 3)]


@pytest.mark.parametrize(("count", "classes"), SHAPES)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_and_macro_f1_are_scikit_learns(count: int, classes: int) -> None:
    logits, labels = made(count, classes)
    predicted = logits.argmax(dim=1)
    balanced = balanced_accuracy_score(labels.numpy(), predicted.numpy())
    assert float(value("balanced-accuracy", logits, labels)) == pytest.approx(balanced, abs=1e-12)
    f1 = f1_score(labels.numpy(), predicted.numpy(), average="macro", zero_division=0)
    assert float(value("macro-f1", logits, labels)) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize(("count", "classes"), SHAPES)
def test_macro_f1_is_torchmetrics_too(count: int, classes: int) -> None:
    logits, labels = made(count, classes)
    theirs = torchmetrics.functional.classification.multiclass_f1_score(logits, labels, classes, average="macro")
    assert float(value("macro-f1", logits, labels)) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("sharp", [0.1, 1.0, 5.0, 1000.0])
@pytest.mark.parametrize(("count", "classes"), SHAPES)
def test_the_calibration_error_is_torchmetrics(count: int, classes: int, sharp: float) -> None:
    logits, labels = made(count, classes, sharp=sharp)
    theirs = torchmetrics.functional.classification.multiclass_calibration_error(
        logits.softmax(dim=1), labels, classes, n_bins=15, norm="l1"
    )
    assert float(value("calibration-error", logits, labels)) == pytest.approx(float(theirs), abs=1e-6)


def test_a_confidence_on_the_edge_of_a_bin_is_torchmetrics_too() -> None:
    edges = torch.linspace(0, 1, 16)[5:]
    probabilities = torch.stack([edges, 1 - edges], dim=1)
    labels = torch.tensor([0, 1] * 5 + [0])
    logits = probabilities.log().clamp(min=-1e4)
    theirs = torchmetrics.functional.classification.multiclass_calibration_error(
        logits.softmax(1), labels, 2, n_bins=15
    )
    assert float(value("calibration-error", logits, labels)) == pytest.approx(float(theirs), abs=1e-6)


def test_top_5_is_scikit_learns_and_counts_equal_scores_by_their_order() -> None:
    logits, labels = made(300, 12)
    theirs = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=5, labels=range(12))
    assert float(value("top-5", logits, labels)) == pytest.approx(theirs, abs=1e-12)
    # A model that says the same of every class is right 5 times in 12, and not always.
    assert ranks(torch.zeros(12, 12), torch.arange(12)).tolist() == list(range(12))
    assert float(value("accuracy", torch.zeros(12, 12), torch.arange(12))) == pytest.approx(1 / 12)


@pytest.mark.parametrize("name", [metric.name for metric in CLASS_METRICS])
def test_a_weight_counts_an_example_so_often(name: str) -> None:
    logits, labels = made(60, 8)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randint(0, 3, (5, 60), generator=generator).to(torch.float64)
    found = value(name, logits, labels, weights)
    assert found.shape == (5,)
    for row, counts in zip(found, weights.to(torch.int64), strict=True):
        repeated = torch.arange(60).repeat_interleave(counts)
        assert float(row) == pytest.approx(float(value(name, logits[repeated], labels[repeated])), abs=1e-12)


def test_values_are_finite_and_in_range_for_the_smallest_sets() -> None:
    for logits, labels in (made(1, 2), (torch.tensor([[1e4, -1e4]]), torch.tensor([1])), made(2, 1)):
        for metric in CLASS_METRICS:
            found = float(value(metric.name, logits, labels))
            assert math.isfinite(found)
            assert metric.low <= found <= metric.high
