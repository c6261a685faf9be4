"""F1, Matthews' correlation and rank correlations as weighted functions of one row per example: `Metric.of`.

The definitions are scikit-learn's (and torchmetrics'); where a score has nothing to divide by, it is 0.

Shape suffixes: R samples, N examples, C classes, L labels of an example, W words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.tasks.metrics import divided

LABEL, PREDICTED = "label", "predicted"
"""Names of the statistics: the class of an example and that which the model gives it; or two numbers, or sets of labels
as `packed` makes them."""
BITS = 48
"""Labels per number. float64 holds whole numbers up to 53 bits, and statistics are kept as float64."""


def macro_f1(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The mean of the classes' F1, over the classes that a sample has or the model predicts."""
    correct, predicted, true = class_counts(values, weights)
    return _mean_f1(correct, predicted, true)


def binary_f1(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """F1 of class 1."""
    predicted, true = (values[name] == 1 for name in (PREDICTED, LABEL))
    rows = torch.stack([predicted & true, predicted, true], dim=1).to(weights.dtype)
    correct, positive, actual = (weights @ rows).unbind(dim=1)
    return divided(2 * correct, positive + actual)


def matthews(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """Matthews' correlation coefficient, for any number of classes (Gorodkin 2004)."""
    correct_RC, predicted_RC, true_RC = class_counts(values, weights)
    total = weights.sum(dim=1)
    covariance = correct_RC.sum(dim=1) * total - (predicted_RC * true_RC).sum(dim=1)
    spread = (total.square() - predicted_RC.square().sum(dim=1)) * (total.square() - true_RC.square().sum(dim=1))
    return divided(covariance, spread.clamp(min=0).sqrt())


def pearson(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The correlation of two numbers."""
    predicted, label = (values[name][None].expand_as(weights) for name in (PREDICTED, LABEL))
    return _correlation(predicted, label, weights)


def spearman(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """The correlation of their ranks in each sample. Equal numbers share the mean of their ranks."""
    return _correlation(_ranks(values[PREDICTED], weights), _ranks(values[LABEL], weights), weights)


def packed(labels: Tensor) -> Tensor:
    """Sets of labels, bool [N, L], as whole numbers that float64 holds: int64 [N, W]."""
    padding = -labels.shape[1] % BITS
    bits = torch.nn.functional.pad(labels.to(torch.int64), (0, padding)).view(len(labels), -1, BITS)
    return (bits << torch.arange(BITS, device=labels.device)).sum(dim=2)


@dataclass(frozen=True)
class SetsOfLabels:
    """Metrics of examples with any number of labels each, whose sets are `packed`."""

    num_labels: int

    def micro_f1(self, values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """F1 of all labels of all examples together."""
        counts = [each.sum(dim=1) for each in self._counts(values, weights)]
        return divided(2 * counts[0], counts[1] + counts[2])

    def macro_f1(self, values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """The mean of the labels' F1, over all labels: one that is neither there nor predicted counts as 0."""
        correct, predicted, true = self._counts(values, weights)
        return divided(2 * correct, predicted + true).mean(dim=1)

    def _counts(self, values: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How often each label is predicted and true, predicted, and true: float64 [R, L]."""
        predicted, true = (self._unpacked(values[name]) for name in (PREDICTED, LABEL))
        correct, predicted, true = (weights @ each.to(weights.dtype) for each in (predicted & true, predicted, true))
        return correct, predicted, true

    def _unpacked(self, words: Tensor) -> Tensor:
        """bool [N, L]"""
        bits = words.to(torch.int64)[:, :, None] >> torch.arange(BITS) & 1
        return bits.flatten(1)[:, : self.num_labels].to(torch.bool)


def class_counts(values: Mapping[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How often each class that occurs is right, predicted, and true: float64 [R, C]."""
    both = torch.cat([values[name].to(torch.int64) for name in (PREDICTED, LABEL)])
    # Only those that occur: of 20,000 classes a small set has a few, and R is large.
    occurring, numbers = torch.unique(both, return_inverse=True)
    predicted, true = numbers.chunk(2)

    def counted(weights: Tensor, classes: Tensor) -> Tensor:
        return weights.new_zeros(len(weights), len(occurring)).index_add_(1, classes, weights)

    return counted(weights * (predicted == true), true), counted(weights, predicted), counted(weights, true)


def _mean_f1(correct_RC: Tensor, predicted_RC: Tensor, true_RC: Tensor) -> Tensor:
    there = (predicted_RC + true_RC) > 0
    scores = divided(2 * correct_RC, predicted_RC + true_RC)
    return divided(scores.sum(dim=1), there.sum(dim=1).to(scores.dtype))


def _correlation(one_RN: Tensor, other_RN: Tensor, weights_RN: Tensor) -> Tensor:
    total = weights_RN.sum(dim=1, keepdim=True)

    def centred(numbers: Tensor) -> Tensor:
        # Around any number of their own first: large numbers close to each other lose digits.
        moved = numbers - numbers[:, :1]
        return moved - divided((weights_RN * moved).sum(dim=1, keepdim=True), total)

    one, other = centred(one_RN), centred(other_RN)
    covariance = (weights_RN * one * other).sum(dim=1)
    spread = (weights_RN * one.square()).sum(dim=1) * (weights_RN * other.square()).sum(dim=1)
    return divided(covariance, spread.sqrt()).clamp(-1, 1)


def _ranks(numbers: Tensor, weights_RN: Tensor) -> Tensor:
    """float64 [R, N]: of each example in each sample, which has it as often as its weight says."""
    distinct, group_of = torch.unique(numbers, sorted=True, return_inverse=True)
    sizes = weights_RN.new_zeros(len(weights_RN), len(distinct)).index_add_(1, group_of, weights_RN)
    last = sizes.cumsum(dim=1)
    return (last - (sizes - 1) / 2)[:, group_of]
