"""What classifiers are judged by: a few numbers per example, and functions of them that know no number of classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.classification_metrics import LABEL, PREDICTED, class_counts, macro_f1
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
        LABEL: labels,
        PREDICTED: predicted,
        "confidence": confidence,
    }


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before each label, int64 [B]; of equal ones, those of lower number."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=1)


def balanced_accuracy(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The mean of the classes' recalls, over the classes that a sample has: scikit-learn's definition."""
    correct_RC, _, true_RC = class_counts(values, weights)
    return divided(divided(correct_RC, true_RC).sum(dim=1), (true_RC > 0).sum(dim=1).to(weights.dtype))


def calibration_error(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The expected calibration error (Guo et al. 2017) with torchmetrics' bins: a confidence of 1 has its own."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float32)
    bins = torch.bucketize(values["confidence"].to(torch.float32), edges, right=True) - 1
    gaps = F.one_hot(bins, BINS + 1).to(torch.float64) * (values["accuracy"] - values["confidence"])[:, None]
    return divided((weights @ gaps).abs().sum(dim=1), weights.sum(dim=1))


ACCURACY = Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
LOSS = Metric(name="loss", higher_is_better=False, low=0.0)
TOP_5 = Metric(name="top-5", higher_is_better=True, low=0.0, high=1.0)
CLASS_METRICS = (
    ACCURACY,
    LOSS,
    TOP_5,
    Metric(
        name="balanced-accuracy", higher_is_better=True, low=0.0, high=1.0,
        of=balanced_accuracy, statistics=(PREDICTED, LABEL),
    ),
    Metric(
        name="macro-f1", higher_is_better=True, low=0.0, high=1.0, of=macro_f1, statistics=(PREDICTED, LABEL),
    ),
    Metric(
        name="calibration-error", higher_is_better=False, low=0.0, high=1.0,
        of=calibration_error, statistics=("accuracy", "confidence"),
    ),
)  # fmt: skip
