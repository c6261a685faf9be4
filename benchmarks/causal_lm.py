"""A task for the benchmarks: next-token loss of a language model of transformers, on windows of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.options import option, parse_options
from ladle_engine.tasks.base import Batch, Metric


@dataclass(frozen=True, kw_only=True)
class CausalLmOptions:
    batch_size: int = option(32, "windows a batch, to train and to evaluate", at_least=1)


class Windows:
    """Windows of token ids in memory."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def batch(self, indices: Tensor) -> Batch:
        return {"tokens": self._tokens[indices].to(torch.int64)}


class CausalLmTask:
    name: ClassVar[str] = "causal-lm"
    summary: ClassVar[str] = "Predicts the next token with the transformers model that config.json names."
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)
    options_type: ClassVar[type] = CausalLmOptions

    def __init__(self, options: CausalLmOptions) -> None:
        self.batch_size = options.batch_size

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        parsed = parse_options(
            CausalLmOptions, options, owner=f"task `{cls.name}`", error=TaskError, code="invalid-task-options"
        )
        return cls(parsed)

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return False

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        config = dict(checkpoints.config or {})
        model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
        return model

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str]:
        return {}

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> Windows:
        """A safetensors file with `tokens`, integers [N, T + 1]: each window's T inputs and, one further, T targets."""
        return Windows(load_file(path)["tokens"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return window_losses(model, batch["tokens"]).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": window_losses(model, batch["tokens"])}


def window_losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """int64 [B, T + 1] -> float32 [B], each the mean over T tokens."""
    logits = model(tokens[:, :-1]).logits.to(torch.float32)
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").mean(dim=1)
