"""Classification of words, such as finding names, with a model of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import option
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.metrics import correct_share, divided, loss_per, of_sums
from ladle_engine.tasks.tables import TableOptions
from ladle_engine.tasks.text.classification.encoder import open_encoder
from ladle_engine.tasks.text.classification.labels import Classes
from ladle_engine.tasks.text.classification.spans import Tags, has_spans
from ladle_engine.tasks.text.classification.tagged import TaggedWords, open_sentences
from ladle_engine.tasks.text.heads import HEADS, recognised, refuse_another_head
from ladle_engine.tasks.text.models import build_model, call, inputs_for, logits_of
from ladle_engine.tasks.text.token_losses import IGNORED
from ladle_engine.tasks.transformers_names import stored_names
from ladle_engine.tasks.with_options import WithOptions

AUTO_CLASS = "AutoModelForTokenClassification"


def _of_spans(score: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """A function of how many spans of each type are found, predicted and there, each [R, T]."""

    def of(sums: Mapping[str, Tensor]) -> Tensor:
        found, predicted, true = sums["spans"].unflatten(1, (3, -1)).unbind(dim=1)
        return score(found, predicted, true)

    return of_sums(of)


def _micro_f1(found: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return divided(2 * found.sum(dim=1), predicted.sum(dim=1) + true.sum(dim=1))


def _precision(found: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return divided(found.sum(dim=1), predicted.sum(dim=1))


def _recall(found: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return divided(found.sum(dim=1), true.sum(dim=1))


def _macro_f1(found: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """Over the types that are there or predicted."""
    there = ((predicted + true) > 0).sum(dim=1).to(found.dtype)
    return divided(divided(2 * found, predicted + true).sum(dim=1), there)


OF_SPANS = tuple(
    Metric(name=name, higher_is_better=True, of=_of_spans(score), statistics=("spans",))
    for name, score in (
        *(("span-f1", _micro_f1), ("span-precision", _precision), ("span-recall", _recall)),
        ("macro-span-f1", _macro_f1),
    )
)
OF_WORDS = (correct_share("accuracy", "words"), loss_per("words"))


@dataclass(frozen=True, kw_only=True)
class TokenClassificationOptions(TableOptions):
    batch_size: int = option(32, "sentences per batch, to train and to evaluate", at_least=1)
    max_length: int | None = option(
        None, "tokens of a sentence, which is cut there; the tokenizer's or the model's when absent", at_least=1
    )


class TokenClassification(WithOptions[TokenClassificationOptions]):
    name: ClassVar[str] = "token-classification"
    summary: ClassVar[str] = "Classifies the words of sentences: finds names, for instance."
    metrics: tuple[Metric, ...] = (*OF_SPANS, *OF_WORDS)
    options_type: ClassVar[type] = TokenClassificationOptions

    def __init__(self, options: TokenClassificationOptions | None = None) -> None:
        super().__init__(options)
        self.tags: Tags | None = None
        """None where the labels are not of spans."""
        self._width = 1
        """Words of the longest sentence of all data that were opened. So what a model puts out has one width."""

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return recognised(checkpoints, HEADS[AUTO_CLASS].suffixes)

    def for_checkpoints(self, checkpoints: CheckpointSet) -> Self:
        """Without the metrics of spans where the model's labels are none of spans, but parts of speech, say.

        Raises `TaskError` (model-mismatch).
        """
        refuse_another_head(checkpoints, AUTO_CLASS, self.name)
        made = copy.copy(self)
        config = model_config.checked(checkpoints)
        model_config.class_ids(config)
        names = [str(name) for _, name in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
        made.tags = Tags(names) if has_spans(names) else None
        made.metrics = self.metrics if made.tags is not None else OF_WORDS
        return made

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return build_model(checkpoints, AUTO_CLASS, self.name)

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return stored_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        number, names = model_config.class_ids(model_config.checked(checkpoints))
        return self._open(path, checkpoints, Classes(number=number, names=names or {}))

    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        return self._open(path, checkpoints, None)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the examples; together they count each word alike."""
        losses = _losses(self._logits(model, batch), batch["labels"])
        return (losses.sum(dim=1) * batch["scale"]).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Sums over the words of each example."""
        return self.of_logits(self.logits(model, batch), self.targets(batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """float32 [B, W C]: of the words of each sentence, one after the other; 0 behind its end."""
        words_BWC = _at_words(self._logits(model, batch), batch["labels"])
        return F.pad(words_BWC, (0, 0, 0, self._room(words_BWC))).flatten(1)

    def targets(self, batch: Batch) -> Tensor:
        """float32 [B, 1 + W]: how much a word counts, and the tags of the words; `IGNORED` behind the last one."""
        labels_BW = _at_words(batch["labels"], batch["labels"])
        labels_BW = F.pad(labels_BW, (0, self._room(labels_BW)), value=IGNORED)
        return torch.cat([batch["scale"][:, None], labels_BW], dim=1)

    def of_logits(self, logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        scale, labels = targets[:, 0], targets[:, 1:].to(torch.int64)
        logits_BWC = logits.unflatten(1, (labels.shape[1], -1))
        predicted, words, losses = logits_BWC.argmax(dim=2), labels != IGNORED, _losses(logits_BWC, labels)
        statistics = {
            # What is trained; the metric `loss` is of the two that follow.
            "loss": losses.sum(dim=1) * scale,
            "nll": losses.sum(dim=1, dtype=torch.float64),
            "words": words.sum(dim=1),
            "correct": (words & (predicted == labels)).sum(dim=1),
        }
        if self.tags is not None:
            statistics["spans"] = self.tags.counts(predicted, torch.where(words, labels, -1)).flatten(1)
        return statistics

    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the examples; together they count each word alike."""
        log_probabilities = self._logits(model, batch).log_softmax(dim=2)
        entropies = -(log_probabilities.exp() * log_probabilities).sum(dim=2)
        words = batch["labels"] != IGNORED
        return ((entropies * words).sum(dim=1) * batch["scale"]).mean()

    def _open(self, path: Path, checkpoints: CheckpointSet, classes: Classes | None) -> DataSet:
        sentences = open_sentences(path, self.options, classes)
        data = TaggedWords(sentences, open_encoder(checkpoints, self.options.max_length, self.name))
        self._width = max(self._width, data.most_labels)
        return data

    def _room(self, of_words: Tensor) -> int:
        """By how many words these [B, W, ...] are narrower than what a model puts out."""
        return max(self._width - of_words.shape[1], 0)

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """float32 [B, L, C]. Raises `TaskError` (model-mismatch)."""
        logits = logits_of(call(model, inputs_for(model, batch)))
        if logits.shape[:-1] != batch["labels"].shape:
            raise TaskError(
                "model-mismatch",
                f"The model must give one row of numbers for each token, but gives a tensor of the shape "
                f"{tuple(logits.shape)} for {tuple(batch['labels'].shape)} tokens.",
            )
        return logits.to(torch.float32)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [B, L], 0 where there is no label."""
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


def _at_words(of_tokens: Tensor, labels: Tensor) -> Tensor:
    """Of [B, L, ...] those of the words, [B, W, ...], at the beginning of each row; 0, or no label, behind them."""
    words = labels != IGNORED
    order = (~words).to(torch.int8).argsort(dim=1, stable=True)
    order = order[:, : max(int(words.sum(dim=1).max()), 1)]
    rows = torch.arange(len(labels), device=labels.device)[:, None]
    found = of_tokens[rows, order]
    if found.ndim == 2:
        return found
    return found.where(words[rows, order][:, :, None], 0.0)
