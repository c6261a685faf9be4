"""Masked language models of transformers, such as BERT: how well hidden tokens are guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.options import option
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.metrics import correct_share, loss_per
from ladle_engine.tasks.text.heads import recognised
from ladle_engine.tasks.text.language.masked_sets import MaskedSettings, open_masked_set
from ladle_engine.tasks.text.language.predictions import predict
from ladle_engine.tasks.text.language.text_sets import TextSetOptions
from ladle_engine.tasks.text.lengths import longest
from ladle_engine.tasks.text.models import build_model
from ladle_engine.tasks.text.token_losses import IGNORED
from ladle_engine.tasks.text.tokenizer import open_tokenizer, vocabulary_size
from ladle_engine.tasks.transformers_names import stored_names
from ladle_engine.tasks.with_options import WithOptions

AUTO_CLASS = "AutoModelForMaskedLM"
SUFFIXES = ("ForMaskedLM", "WithLMHeadModel")
USUAL_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class MaskedLmOptions(TextSetOptions):
    batch_size: int = option(16, "windows of text per batch, to train and to evaluate", at_least=1)
    max_length: int | None = option(
        None, "tokens of a window with the special ones; what the model takes, at most 512, when absent", at_least=1
    )
    mask_fraction: float = option(0.15, "share of the tokens that are hidden", above=0, at_most=1)
    mask_seed: int = option(0, "which tokens are hidden", at_least=0)


class MaskedLm(WithOptions[MaskedLmOptions]):
    name: ClassVar[str] = "masked-lm"
    summary: ClassVar[str] = "Guesses hidden tokens with the masked language model that config.json names."
    metrics: ClassVar[tuple[Metric, ...]] = (loss_per("tokens"), correct_share("accuracy", "tokens"))
    options_type: ClassVar[type] = MaskedLmOptions

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return recognised(checkpoints, SUFFIXES)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return build_model(checkpoints, AUTO_CLASS, self.name)

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return stored_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        config, tokenizer = model_config.parse_config(checkpoints), open_tokenizer(checkpoints)
        options = self.options
        known = longest(options.max_length, tokenizer, config, self.name)
        settings = MaskedSettings(
            options=options,
            max_length=options.max_length or min(USUAL_LENGTH, known or USUAL_LENGTH),
            mask_fraction=options.mask_fraction,
            seed=options.mask_seed,
            vocabulary=vocabulary_size(config),
        )
        return open_masked_set(path, settings, tokenizer)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        nll, _ = self._predict(model, batch)
        return (nll.sum(dim=1) * batch["scale"]).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The sums over the hidden tokens of each example."""
        nll, correct = self._predict(model, batch)
        return {
            "nll": nll.sum(dim=1, dtype=torch.float64),
            "tokens": (batch["targets"] != IGNORED).sum(dim=1),
            "correct": correct.sum(dim=1),
        }

    def _predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return predict(model, inputs, batch["targets"])
