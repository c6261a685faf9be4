"""Classification of texts and of pairs of texts, with one label or several, and regression, with transformers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.options import option
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.tables import TableOptions, open_table
from ladle_engine.tasks.text.classification.classified import ClassifiedTexts, find_labels, find_texts
from ladle_engine.tasks.text.classification.encoder import Encoder, open_encoder
from ladle_engine.tasks.text.classification.labels import Classes
from ladle_engine.tasks.text.classification.problems import (
    PROBLEMS,
    MultiLabel,
    Problem,
    Regression,
    SingleLabel,
    problem_of,
)
from ladle_engine.tasks.text.classification.sequence_logits import sequence_logits
from ladle_engine.tasks.text.heads import HEADS, recognised, refuse_another_head
from ladle_engine.tasks.text.models import build_model
from ladle_engine.tasks.transformers_names import stored_names
from ladle_engine.tasks.with_options import WithOptions

AUTO_CLASS = "AutoModelForSequenceClassification"


@dataclass(frozen=True, kw_only=True)
class TextClassificationOptions(TableOptions):
    batch_size: int = option(32, "examples per batch, to train and to evaluate", at_least=1)
    max_length: int | None = option(
        None, "tokens of a text (or pair), which is cut there; the tokenizer's or the model's when absent", at_least=1
    )
    problem_type: str | None = option(
        None, "what the labels are; as `config.json` says when absent", one_of=PROBLEMS
    )  # fmt: skip


def _all_metrics() -> tuple[Metric, ...]:
    """Of every kind of problem; those of a folder's own kind are what `for_checkpoints` gives."""
    two = Classes(number=2, names={})
    metrics = [metric for each in (SingleLabel, MultiLabel, Regression) for metric in each(two).metrics]
    return tuple({metric.name: metric for metric in reversed(metrics)}.values())[::-1]


class TextClassification(WithOptions[TextClassificationOptions]):
    name: ClassVar[str] = "text-classification"
    summary: ClassVar[str] = "Classifies texts or pairs of texts, with one label, several, or a number (regression)."
    metrics: tuple[Metric, ...] = _all_metrics()
    options_type: ClassVar[type] = TextClassificationOptions

    def __init__(self, options: TextClassificationOptions | None = None) -> None:
        super().__init__(options)
        self.problem: Problem | None = None

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return recognised(checkpoints, HEADS[AUTO_CLASS].suffixes)

    def for_checkpoints(self, checkpoints: CheckpointSet) -> TextClassification:
        """With the metrics that make sense for this folder's labels. Raises `TaskError` (model-mismatch)."""
        refuse_another_head(checkpoints, AUTO_CLASS, self.name)
        problem = problem_of(model_config.checked(checkpoints), self.options.problem_type)
        made = TextRegression(self.options) if isinstance(problem, Regression) else copy.copy(self)
        made.problem, made.metrics = problem, problem.metrics
        return made

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return build_model(checkpoints, AUTO_CLASS, self.name)

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return stored_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        assert self.problem is not None, "`for_checkpoints` comes first"
        table = open_table(path, split=self.options.split, limit=self.options.limit)
        labels = find_labels(table, self.problem, self.options.columns)
        return ClassifiedTexts(find_texts(table, self.options.columns), labels, self._encoder(checkpoints))

    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        table = open_table(path, split=self.options.split, limit=self.options.limit)
        return ClassifiedTexts(find_texts(table, self.options.columns), None, self._encoder(checkpoints))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.problem is not None
        return self.problem.losses(self.logits(model, batch), self.targets(batch)).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self.of_logits(self.logits(model, batch), self.targets(batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return sequence_logits(model, batch)

    def targets(self, batch: Batch) -> Tensor:
        return batch["labels"]

    def of_logits(self, logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        assert self.problem is not None
        return {"loss": self.problem.losses(logits, targets), **self.problem.statistics(logits, targets)}

    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        assert self.problem is not None
        return self.problem.entropy(sequence_logits(model, batch))

    def _encoder(self, checkpoints: CheckpointSet) -> Encoder:
        return open_encoder(checkpoints, self.options.max_length, self.name)


class TextRegression(TextClassification):
    """A number has no entropy. None says that a class lacks methods of a protocol that its base has."""

    open_unlabelled = None  # type: ignore[assignment]
    entropy = None  # type: ignore[assignment]
