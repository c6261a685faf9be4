"""Losses of a decoder's tokens, as sums per example, in memory that is bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ladle_engine.distributed.sharded import is_fsdp_module
from ladle_engine.errors import TaskError
from ladle_engine.tasks.text.models import call
from ladle_engine.tasks.text.token_losses import IGNORED

MOST_LOGITS = 1 << 27
"""Scores of the vocabulary that are there at once: 512 MiB of float32, a few times."""


def target_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """float32 [B]: the sum of the negative log-likelihoods of each target's tokens, after the true ones before them.

    A batch with more scores than memory should hold is cut, and its parts are computed once more on the way back. That
    changes no value. A sharded model takes the whole batch: its ranks must call it equally often.

    Raises `TaskError` (model-mismatch).
    """
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "labels")]
    labels = batch["labels"]
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    rows = max(1, MOST_LOGITS // (labels.shape[1] * (vocabulary if isinstance(vocabulary, int) else 1)))
    if is_fsdp_module(model) or rows >= len(labels):
        return _losses(model, *inputs)
    parts = zip(*(each.split(rows) for each in inputs), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_losses(model, *part) for part in parts])
    return torch.cat([checkpoint(_losses, model, *part, use_reentrant=False) for part in parts])


def _losses(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
    answer: Any = call(
        model,
        {"input_ids": input_ids, "attention_mask": attention_mask, **_of_decoder(model, labels), "return_dict": True},
    )
    losses = F.cross_entropy(
        answer.logits.to(torch.float32).flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return losses.view(labels.shape).sum(dim=1)


def _of_decoder(model: nn.Module, labels: Tensor) -> dict[str, Tensor]:
    """The tokens that the decoder sees: the true ones, each a place later. Raises `TaskError` (model-mismatch)."""
    # Some models write into the labels.
    labels = labels.clone()
    prepare: Callable[..., Tensor] | None = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is None:
        # Such models do it themselves, beside a loss of their own.
        return {"labels": labels}
    try:
        return {"decoder_input_ids": prepare(labels=labels)}
    except Exception as error:
        # Of whatever class a model takes for the absence of a token.
        raise TaskError(
            "model-mismatch",
            f"`config.json` must name the tokens that a text begins with and is filled up with, "
            f"`decoder_start_token_id` and `pad_token_id`, but the model says: {type(error).__name__}: {error}",
        ) from error
