"""Texts as a model takes them: the folder's tokenizer with what the model allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.tables import Table
from ladle_engine.tasks.text.lengths import longest
from ladle_engine.tasks.text.rows import Row, as_batch
from ladle_engine.tasks.text.tokenizer import open_tokenizer, vocabulary_size

RIGHT_ALIGNED = frozenset({"xlnet"})
"""Models that look at the last place of a row, which a token must have."""
SEE_PADDING = frozenset(
    {
        *("big_bird", "canine", "convbert", "fnet", "funnel", "mobilebert", "nystromformer", "perceiver", "reformer"),
        "yoso",
    }
)
"""Models for which a text is worth something else with more padding, whatever the attention mask says (measured). All
their rows have the same width, so that no text's value depends on its batch."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    tokenizer: Any
    config: Any
    """The model's, of transformers."""
    max_length: int | None
    """Where rows are cut; None for nowhere."""

    @property
    def left(self) -> bool:
        """Whether rows are padded on the left."""
        return self.config.model_type in RIGHT_ALIGNED

    @property
    def width(self) -> int:
        """How wide a batch is at least."""
        return (self.max_length or 1) if self.config.model_type in SEE_PADDING else 1

    @property
    def remarks(self) -> list[str]:
        if self.width == 1:
            return []
        return [
            f"A model of the type {self.config.model_type} sees padding, so every text is padded to {self.width} "
            f"tokens. The task option `max_length` says to how many."
        ]

    def batch(self, rows: Sequence[Row], **paddings: int) -> dict[str, Tensor]:
        """Rows as a model takes them. `paddings` are for what a row has beside what `rows` made."""
        return as_batch(rows, {**self.paddings, **paddings}, left=self.left, width=self.width)

    @property
    def has_types(self) -> bool:
        """Whether the tokenizer says which of two texts a token belongs to."""
        return "token_type_ids" in self.tokenizer.model_input_names

    @property
    def paddings(self) -> dict[str, int]:
        """Name of a tensor of a row -> what stands beyond the row's end.

        The model's own id: some models find the end of a row by it.
        """
        ids = (getattr(self.config.get_text_config(), "pad_token_id", None), self.tokenizer.pad_token_id)
        padding = next((each for each in ids if isinstance(each, int) and each >= 0), 0)
        types = {"token_type_ids": self.tokenizer.pad_token_type_id} if self.has_types else {}
        return {"input_ids": padding, **types}

    def encode(self, texts: Sequence[Any], pairs: Sequence[Any] | None = None, **settings: Any) -> Any:
        """What the tokenizer gives for some texts, as lists, cut at `max_length`."""
        return self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            **{
                "truncation": self.max_length is not None,
                "max_length": self.max_length,
                "padding": False,
                "return_attention_mask": False,
                "return_token_type_ids": self.has_types,
                "verbose": False,
                **settings,
            },
        )

    def rows(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, cut: bool = True) -> list[Row]:
        """Whole rows if not `cut`."""
        settings: Mapping[str, Any] = {} if cut else {"truncation": False, "max_length": None}
        encoded = self.encode(texts, pairs, **settings)
        names = ["input_ids", *(["token_type_ids"] if self.has_types else [])]
        return [
            {name: np.asarray(encoded[name][number], dtype=np.int32) for name in names} for number in range(len(texts))
        ]

    def check_pairs(self) -> None:
        """Raises `TaskError` where `max_length` leaves no room for two texts."""
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        if self.max_length is not None and self.max_length < special + 2:
            raise TaskError(
                "invalid-task-options",
                f"`max_length` must be at least {special + 2} for pairs of texts, because the tokenizer adds {special} "
                f"special tokens, but is {self.max_length}.",
            )

    def check(self, row: Row, table: Table, index: int) -> None:
        """Raises `DataError` for a row that no model could take, and `TaskError` for a token that this one has not."""
        ids = row["input_ids"]
        if not len(ids):
            raise DataError(
                "invalid-data",
                f"A text must have at least one token, but the one in {table.place(index)} has none: it is empty, and "
                f"this model's tokenizer adds nothing to it. Leave such rows out.",
            )
        known = vocabulary_size(self.config)
        if known is not None and int(ids.max()) >= known:
            token = self.tokenizer.convert_ids_to_tokens(int(ids.max()))
            raise TaskError(
                "model-mismatch",
                f"The tokenizer beside the checkpoints must be the model's, but gives the token {token!r} the number "
                f"{int(ids.max())} in {table.place(index)}, and the model knows {known} tokens.",
            )


def open_encoder(checkpoints: CheckpointSet, max_length: int | None, task: str) -> Encoder:
    """Raises `TaskError`: model-mismatch, invalid-task-options (`max_length`), missing-library."""
    tokenizer = open_tokenizer(checkpoints)
    config = model_config.parse_config(checkpoints)
    cut_at = longest(max_length, tokenizer, config, task)
    if cut_at is None and config.model_type in SEE_PADDING:
        raise TaskError(
            "invalid-task-options",
            f"`max_length` of task `{task}` must be given for a model of the type {config.model_type}, because every "
            f"text is padded to it: such a model sees padding.",
        )
    return Encoder(tokenizer=tokenizer, config=config, max_length=cut_at)


def remark_on_unknown(unknown: int, total: int) -> str | None:
    """What should be said of a tokenizer that does not know many of the words."""
    if unknown * 5 <= total:
        return None
    return (
        f"The tokenizer beside the checkpoints does not know {100 * unknown / total:.0f} % of the tokens of this data "
        f"set. Is it the model's, and are the texts in the model's language?"
    )
