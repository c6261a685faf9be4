"""What a classifier of texts says of a batch, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.errors import TaskError
from ladle_engine.tasks.text.models import call, inputs_for, logits_of


def sequence_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """float32 [B, C]. Raises `TaskError` (model-mismatch)."""
    inputs = inputs_for(model, batch)
    with _with_padding(model, inputs, batch["attention_mask"]) as filled:
        logits = logits_of(call(model, filled))
    if logits.ndim != 2 or len(logits) != len(batch["attention_mask"]):
        raise TaskError(
            "model-mismatch",
            f"The model must give one row of numbers for each text, but gives a tensor of the shape "
            f"{tuple(logits.shape)} for {len(batch['attention_mask'])} texts.",
        )
    return logits.to(torch.float32)


@contextmanager
def _with_padding(model: nn.Module, inputs: dict[str, Tensor], mask: Tensor) -> Iterator[dict[str, Tensor]]:
    """Models such as GPT-2's classifier look at the last token that is no padding. Those whose config has no id for
    padding take no batch at all: inside, they have one that no text of the batch ends with.
    """
    config: Any = getattr(model, "config", None)
    parts = [] if config is None else [config, config.get_text_config()]
    known = any(getattr(part, "pad_token_id", None) is not None for part in parts)
    if not parts or known or "input_ids" not in inputs:
        yield inputs
        return
    ids = inputs["input_ids"]
    last = ids.gather(1, mask.sum(dim=1, keepdim=True) - 1).flatten().tolist()
    padding = min(set(range(len(last) + 1)) - set(last))
    try:
        for part in parts:
            part.pad_token_id = padding
        yield {**inputs, "input_ids": ids.masked_fill(mask == 0, padding)}
    finally:
        for part in parts:
            part.pad_token_id = None
