"""What classifiers are judged by: a few numbers per example, and functions of them that know no number of classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.metrics import divided

TOP = 5
BINS = 15


def class_statistics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of float32 [B, classes] and int64 [B]: every statistic of `CLASS_METRICS`, each [B]."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    # The softmax may round two classes to the same.
    predicted = logits.argmax(dim=1)
    return {
        "accuracy": (predicted == labels).to(torch.float32),
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "top-5": (ranks(logits, labels) < TOP).to(torch.float32),
        "label": labels,
        "predicted": predicted,
        "confidence": confidence,
    }


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before each label, int64 [B]; of equal ones, those of lower number."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def balanced_accuracy(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The mean of the classes' recalls, over the classes that a sample has: scikit-learn's definition."""
    total, _, correct = _by_class(values, weights)
    return _mean_over(divided(correct, total), total > 0)


def macro_f1(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The mean of the classes' F1, over the classes that are a label or predicted: torchmetrics and scikit-learn."""
    total, predicted, correct = _by_class(values, weights)
    return _mean_over(divided(2 * correct, total + predicted), total + predicted > 0)


def calibration_error(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The expected calibration error (Guo et al. 2017) with torchmetrics' bins: a confidence of 1 has its own."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float32)
    bins = torch.bucketize(values["confidence"].to(torch.float32), edges, right=True) - 1
    gaps = F.one_hot(bins, BINS + 1).to(torch.float64) * (values["accuracy"] - values["confidence"])[:, None]
    return divided((weights @ gaps).abs().sum(dim=1), weights.sum(dim=1))


def _by_class(values: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How often each class that occurs is the label, is predicted, and both, in each sample: float64 [R, classes]."""
    labels, predicted = values["label"].to(torch.int64), values["predicted"].to(torch.int64)
    known, numbers = torch.unique(torch.cat([labels, predicted]), return_inverse=True)
    labels, predicted = numbers[: len(labels)], numbers[len(labels) :]
    none = weights.new_zeros(len(weights), len(known))
    correct = weights * (labels == predicted)
    return (
        none.index_add(1, labels, weights),
        none.index_add(1, predicted, weights),
        none.index_add(1, labels, correct),
    )


def _mean_over(values: Tensor, counted: Tensor) -> Tensor:
    return divided((values * counted).sum(dim=1), counted.sum(dim=1).to(values.dtype))


ACCURACY = Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
LOSS = Metric(name="loss", higher_is_better=False, low=0.0)
TOP_5 = Metric(name="top-5", higher_is_better=True, low=0.0, high=1.0)
CLASS_METRICS = (
    ACCURACY,
    LOSS,
    TOP_5,
    Metric(
        name="balanced-accuracy", higher_is_better=True, low=0.0, high=1.0,
        of=balanced_accuracy, statistics=("label", "predicted"),
    ),
    Metric(
        name="macro-f1", higher_is_better=True, low=0.0, high=1.0, of=macro_f1, statistics=("label", "predicted"),
    ),
    Metric(
        name="calibration-error", higher_is_better=False, low=0.0, high=1.0,
        of=calibration_error, statistics=("accuracy", "confidence"),
    ),
)  # fmt: skip
