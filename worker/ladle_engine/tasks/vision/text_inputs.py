"""Texts as a dual encoder takes them: all of a data set with one length, so that no value depends on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks import model_config
from ladle_engine.tasks.text.lengths import longest
from ladle_engine.tasks.text.tokenizer import open_tokenizer

AT_A_TIME = 1024
NAMES = ("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class TextInputs:
    tensors: Mapping[str, Tensor]
    """int32 [N, L]"""
    num_cut: int
    """How many were too long, and were cut."""

    def at(self, indices: Tensor) -> dict[str, Tensor]:
        """int64, in the shape of the indices and one dimension more."""
        return {name: each[indices].to(torch.int64) for name, each in self.tensors.items()}

    def remark(self, what: str) -> Sequence[str]:
        if not self.num_cut:
            return ()
        length = self.tensors["input_ids"].shape[1]
        return (f"{self.num_cut} {what} are cut, because they are longer than {length} tokens, which the model takes.",)


def text_inputs(texts: Sequence[str], checkpoints: CheckpointSet, task: str) -> TextInputs:
    """Raises `TaskError` where the folder has no tokenizer, or another model's."""
    tokenizer = open_tokenizer(checkpoints)
    config = model_config.parse_config(checkpoints)
    length = longest(None, tokenizer, config, task)
    # SigLIP was trained with padding that it attends to, so a text's length is always the same.
    fills = config.model_type.startswith("siglip") or NAMES[1] not in tokenizer.model_input_names
    some = [list(texts[start : start + AT_A_TIME]) for start in range(0, len(texts), AT_A_TIME)]
    parts = [_tokens(tokenizer, each, length, fills) for each in some]
    names = NAMES[:1] if fills else NAMES
    width = max(part["input_ids"].shape[1] for part in parts)
    filling = {NAMES[0]: tokenizer.pad_token_id or 0, NAMES[1]: 0}
    return TextInputs(
        tensors={name: torch.cat([_widened(part[name], width, filling[name]) for part in parts]) for name in names},
        num_cut=sum(_num_cut(tokenizer, each, length) for each in some),
    )


def _tokens(tokenizer: Any, texts: list[str], length: int | None, fills: bool) -> dict[str, Tensor]:
    made = tokenizer(
        texts,
        padding="max_length" if fills and length is not None else True,
        padding_side="right",
        truncation=length is not None,
        max_length=length,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return {name: made[name].to(torch.int32) for name in NAMES}


def _num_cut(tokenizer: Any, texts: Sequence[str], length: int | None) -> int:
    if length is None:
        return 0
    # A token has one character at least, but those that the tokenizer adds.
    candidates = [text for text in texts if len(text) > length - 2 - len(text) // 1000]
    made = tokenizer(candidates, truncation=False)["input_ids"] if candidates else []
    return sum(len(each) > length for each in made)


def _widened(part: Tensor, width: int, value: int) -> Tensor:
    if part.shape[1] == width:
        return part
    filled = part.new_full((len(part), width), value)
    filled[:, : part.shape[1]] = part
    return filled
