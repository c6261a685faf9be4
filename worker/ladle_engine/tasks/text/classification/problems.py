"""What a classifier's answers mean: one class, any number of labels, or a number. Each has losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.classification_metrics import (
    LABEL,
    PREDICTED,
    SetsOfLabels,
    binary_f1,
    macro_f1,
    matthews,
    packed,
    pearson,
    spearman,
)
from ladle_engine.tasks.metrics import mean_entropy
from ladle_engine.tasks.text.classification.labels import Classes, LabelColumn, label_sets, numbers, single_labels

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""As `problem_type` in `config.json` has them."""
PROBLEMS = (SINGLE, MULTI, REGRESSION)
BOTH = (PREDICTED, LABEL)
ACCURACY = Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
LOSS = Metric(name="loss", higher_is_better=False, low=0.0)


class Problem(Protocol):
    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def classes(self) -> Classes: ...

    def labels(self, column: LabelColumn) -> Tensor:
        """[N] or [N, C]. Raises `DataError`."""
        ...

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """float32 [B], of logits float32 [B, C]."""
        ...

    def statistics(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """What the metrics need beside `loss`, a row for each example."""
        ...

    def entropy(self, logits: Tensor) -> Tensor:
        """The mean over the batch of the entropy of what is predicted, float32 scalar."""
        ...


@dataclass(frozen=True)
class SingleLabel:
    classes: Classes

    @property
    def metrics(self) -> tuple[Metric, ...]:
        one_of_two = [_function("f1", binary_f1)] if self.classes.number == 2 else []
        return (ACCURACY, *one_of_two, _function("macro-f1", macro_f1), _function("mcc", matthews), LOSS)

    def labels(self, column: LabelColumn) -> Tensor:
        return single_labels(column, self.classes)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    def statistics(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        predicted = logits.argmax(dim=1)
        return {"accuracy": (predicted == labels).to(torch.float32), PREDICTED: predicted, LABEL: labels}

    def entropy(self, logits: Tensor) -> Tensor:
        return mean_entropy(logits)


@dataclass(frozen=True)
class MultiLabel:
    classes: Classes

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy is the share of texts all of whose labels are right."""
        sets = SetsOfLabels(self.classes.number)
        return (_function("micro-f1", sets.micro_f1), _function("macro-f1", sets.macro_f1), ACCURACY, LOSS)

    def labels(self, column: LabelColumn) -> Tensor:
        return label_sets(column, self.classes)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        return losses.mean(dim=1)

    def statistics(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        predicted = logits > 0
        accuracy = (predicted == labels).all(dim=1).to(torch.float32)
        return {"accuracy": accuracy, PREDICTED: packed(predicted), LABEL: packed(labels)}

    def entropy(self, logits: Tensor) -> Tensor:
        """The mean over the labels too, each of which is there or not."""
        return mean_entropy(torch.stack([logits, torch.zeros_like(logits)], dim=-1))


@dataclass(frozen=True)
class Regression:
    classes: Classes

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The loss is the squared error."""
        return (_function("pearson", pearson), _function("spearman", spearman), LOSS)

    def labels(self, column: LabelColumn) -> Tensor:
        return numbers(column)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits[:, 0] - labels).square()

    def statistics(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        return {PREDICTED: logits[:, 0], LABEL: labels}

    def entropy(self, logits: Tensor) -> Tensor:
        raise NotImplementedError("a number has none")


def problem_of(config: Mapping[str, Any], option: str | None) -> Problem:
    """By the task's option or else `problem_type` in the config or else the number of labels, as transformers does.

    Raises `TaskError` (model-mismatch) where these contradict each other.
    """
    number, names = model_config.class_ids(config)
    named, source = (option, "the task option") if option is not None else (config.get("problem_type"), "`config.json`")
    if named is None:
        named = REGRESSION if number == 1 else SINGLE
    if named not in PROBLEMS:
        rule = f"`problem_type` in {source} must be one of {', '.join(PROBLEMS)}"
        raise TaskError("model-mismatch", f"{rule}, but is {repr(named)[:100]}.")
    if (named == REGRESSION and number > 1) or (named == SINGLE and number == 1):
        needed = "1 number for a text" if named == REGRESSION else "at least 2 classes"
        raise TaskError(
            "model-mismatch",
            f"A model whose `problem_type` is {named}, as {source} says, must have {needed}, but this one's "
            f"`config.json` has {number} labels.",
        )
    classes = Classes(number=number, names=names or {})
    kinds: Mapping[str, type[Problem]] = {SINGLE: SingleLabel, MULTI: MultiLabel, REGRESSION: Regression}
    made: Any = kinds[named]
    problem: Problem = made(classes)
    return problem


def _function(name: str, of: Any) -> Metric:
    return Metric(name=name, higher_is_better=True, of=of, statistics=BOTH)
