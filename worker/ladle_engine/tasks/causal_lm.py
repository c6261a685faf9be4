"""Causal language models of transformers: how well each token is predicted from those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import option
from ladle_engine.tasks import model_config
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.metrics import correct_share, divided, loss_per, of_sums, perplexity_per
from ladle_engine.tasks.text.heads import architectures_of
from ladle_engine.tasks.text.language.causal_sets import CausalSettings, open_causal_set
from ladle_engine.tasks.text.language.conversations import ALL, LOSS_ON
from ladle_engine.tasks.text.language.folder_tokenizer import FolderTokenizer
from ladle_engine.tasks.text.language.predictions import predict_packed
from ladle_engine.tasks.text.language.text_sets import TextSetOptions
from ladle_engine.tasks.text.lengths import max_positions
from ladle_engine.tasks.text.models import build_model
from ladle_engine.tasks.text.token_losses import IGNORED
from ladle_engine.tasks.text.tokenizer import vocabulary_size
from ladle_engine.tasks.transformers_names import stored_names
from ladle_engine.tasks.with_options import WithOptions

AUTO_CLASS = "AutoModelForCausalLM"
SUFFIXES = ("ForCausalLM", "LMHeadModel")
ANOTHER_SUFFIX = "WithLMHeadModel"
"""Of masked language models."""
USUAL_BLOCK = 1024

LOSS = loss_per("tokens")
PERPLEXITY = perplexity_per("tokens")
BITS_PER_BYTE = Metric(
    name="bits_per_byte", higher_is_better=False, low=0.0,
    of=of_sums(lambda sums: divided(sums["nll"], sums["bytes"]) / math.log(2)), statistics=("nll", "bytes"),
    rises_with="nll",
)  # fmt: skip
TOKEN_ACCURACY = correct_share("token_accuracy", "tokens")


@dataclass(frozen=True, kw_only=True)
class CausalLmOptions(TextSetOptions):
    batch_size: int = option(8, "blocks or rows per batch, to train and to evaluate", at_least=1)
    block_size: int | None = option(
        None, "tokens that the model gets at once; the model's positions, at most 1024, when absent", at_least=2
    )
    stride: int | None = option(
        None, "lets windows of a long text begin every so many tokens, so that they overlap", at_least=1
    )
    add_bos: bool | None = option(None, "begins each text with the BOS token; as the tokenizer does when absent")
    add_eos: bool | None = option(None, "ends each text with the EOS token; as the tokenizer does when absent")
    loss_on: str = option(ALL, "what of `messages` is predicted: all, or only what the assistant says", one_of=LOSS_ON)


class CausalLm(WithOptions[CausalLmOptions]):
    name: ClassVar[str] = "causal-lm"
    summary: ClassVar[str] = "Predicts the next token with the causal language model that config.json names."
    metrics: tuple[Metric, ...] = (LOSS, PERPLEXITY, BITS_PER_BYTE, TOKEN_ACCURACY)
    options_type: ClassVar[type] = CausalLmOptions

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        names = architectures_of(checkpoints.config)
        return any(name.endswith(SUFFIXES) and not name.endswith(ANOTHER_SUFFIX) for name in names)

    def for_checkpoints(self, checkpoints: CheckpointSet) -> Self:
        """Without a tokenizer nobody can say how many bytes of text tokens stand for."""
        made = type(self)(self.options)
        if not FolderTokenizer(checkpoints).is_there:
            made.metrics = (LOSS, PERPLEXITY, TOKEN_ACCURACY)
        return made

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return build_model(checkpoints, AUTO_CLASS, self.name)

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return stored_names(model, checkpoints)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        config = model_config.parse_config(checkpoints)
        folder = FolderTokenizer(checkpoints)
        settings = CausalSettings(
            options=self.options,
            block_size=self._block_size(max_positions(config), folder),
            stride=self.options.stride,
            add_bos=self.options.add_bos,
            add_eos=self.options.add_eos,
            loss_on=self.options.loss_on,
            vocabulary=vocabulary_size(config),
        )
        return open_causal_set(path, settings, folder)

    def _block_size(self, positions: int | None, folder: FolderTokenizer) -> int:
        given = self.options.block_size
        if given is not None and positions is not None and given > positions:
            raise TaskError(
                "invalid-task-options",
                f"`block_size` of task `{self.name}` must be at most {positions}, the model's positions, but is "
                f"{given}.",
            )
        own = folder.tokenizer.model_max_length if folder.is_there else None
        size = given or min(each for each in (USUAL_BLOCK, positions, own) if each)
        if self.options.stride is not None and self.options.stride >= size:
            raise TaskError(
                "invalid-task-options",
                f"`stride` of task `{self.name}` must be below `block_size`, {size}, so that windows overlap, but is "
                f"{self.options.stride}. Leave it out for windows that do not.",
            )
        return size

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        nll, _ = predict_packed(model, batch["input_ids"], batch["positions"], batch["targets"])
        return (nll.sum(dim=1) * batch["scale"]).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The sums of each block."""
        nll, correct = predict_packed(model, batch["input_ids"], batch["positions"], batch["targets"])
        return {
            "nll": nll.sum(dim=1, dtype=torch.float64),
            "tokens": (batch["targets"] != IGNORED).sum(dim=1),
            "correct": correct.sum(dim=1),
            "bytes": batch["bytes"],
        }
