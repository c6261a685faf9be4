"""Pairs of texts as a data set: tokens of source and target, and the target's text to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.text.padding import encoded_texts, lengths_of, mask_of, padded
from ladle_engine.tasks.text.seq2seq.pairs import Pair, Pairs
from ladle_engine.tasks.text.token_losses import IGNORED

MOST_READ = 1_000_000
"""Pairs that are read when the data are opened."""
MOST_TOKENISED = 10_000
"""Pairs of which the tokens are counted then, evenly spread."""
MOST_TARGET_CHARS = 100_000
"""ROUGE and word errors compare every word with every other."""
AT_ONCE = 1_000
SHOWN_PLACES = 3


@dataclass(frozen=True, kw_only=True)
class PairEncoder:
    """Texts to tokens, without padding."""

    tokenizer: Any
    prefix: str
    """Before each source."""
    max_source_length: int
    max_target_length: int

    def sources(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Tokens, and how many texts were cut."""
        return self._encoded("text", [self.prefix + text for text in texts], self.max_source_length)

    def targets(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        return self._encoded("text_target", list(texts), self.max_target_length)

    def _encoded(self, name: str, texts: list[str], longest: int) -> tuple[list[list[int]], int]:
        rows: list[list[int]] = self.tokenizer(**{name: texts}, verbose=False)["input_ids"]
        long = [number for number, row in enumerate(rows) if len(row) > longest]
        if long:
            # By the tokenizer, which keeps the token at the end.
            cut = {name: [texts[number] for number in long]}
            shorter = self.tokenizer(**cut, truncation=True, max_length=longest, verbose=False)["input_ids"]
            for number, row in zip(long, shorter, strict=True):
                rows[number] = row
        return rows, len(long)


class PairData:
    """Without pairs of which one text is empty."""

    def __init__(self, pairs: Pairs, encoder: PairEncoder, padding: int) -> None:
        """Raises `DataError` where nothing is left."""
        self._pairs = pairs
        self._encoder = encoder
        self._padding = padding
        self._kept, self._left_out = _whole_pairs(pairs)
        if not len(self._kept):
            what = "has only pairs with an empty text" if len(pairs) else "has no pairs"
            raise DataError("empty-data", f"The data must have pairs of a source and a target, but the set {what}.")
        self._tokens_per_target, self._cut = self._counted()

    @property
    def remarks(self) -> Sequence[str]:
        return [*self._pairs.remarks, *self._left_out, *self._cut]

    def __len__(self) -> int:
        return len(self._kept)

    def batch(self, indices: Tensor) -> Batch:
        """`input_ids` and `attention_mask` [B, S], `labels` [B, T] with `IGNORED` beyond the end, `references` and
        `reference_bytes` as `encoded_texts` makes them, and `scale` [B]: 1 / the mean number of tokens per target.
        """
        pairs = self._read(indices)
        sources, _ = self._encoder.sources([pair.source for pair in pairs])
        targets, _ = self._encoder.targets([pair.target for pair in pairs])
        input_ids = padded(sources, self._padding)
        references, reference_bytes = encoded_texts([pair.target for pair in pairs])
        return {
            "input_ids": input_ids,
            "attention_mask": mask_of(lengths_of(sources), input_ids.shape[1]),
            "labels": padded(targets, IGNORED),
            "references": references,
            "reference_bytes": reference_bytes,
            "scale": torch.full((len(pairs),), 1.0 / self._tokens_per_target),
        }

    def _read(self, indices: Tensor) -> list[Pair]:
        rows = self._kept[indices].tolist()
        pairs = self._pairs.rows(rows)
        for row, pair in zip(rows, pairs, strict=True):
            if len(pair.target) > MOST_TARGET_CHARS:
                raise DataError(
                    "invalid-data",
                    f"A target must have at most {MOST_TARGET_CHARS:,} characters, but one has {len(pair.target):,} in "
                    f"{self._pairs.place(row)}.",
                )
            if not pair.is_whole:
                # Among so many that they were not all read before.
                raise DataError(
                    "invalid-data",
                    f"Both texts of a pair must be there, but one is empty in {self._pairs.place(row)}. Leave such "
                    f"pairs out, or give a `limit` of at most {MOST_READ:,}: then Ladle does.",
                )
        return pairs

    def _counted(self) -> tuple[float, list[str]]:
        """Tokens per target, and what to say of texts that are cut."""
        step = -(-len(self._kept) // MOST_TOKENISED)
        looked_at = torch.arange(0, len(self._kept), step)
        tokens = cut_sources = cut_targets = 0
        for part in looked_at.split(AT_ONCE):
            pairs = self._read(part)
            sources = self._encoder.sources([pair.source for pair in pairs])
            targets = self._encoder.targets([pair.target for pair in pairs])
            tokens += sum(map(len, targets[0]))
            cut_sources += sources[1]
            cut_targets += targets[1]
            pulse()
        remarks = [
            f"{cut:,} of {len(looked_at):,} {kind}s are longer than {longest} tokens and are cut there. The task "
            f"option `max_{kind}_length` sets the length."
            for kind, cut, longest in (
                ("source", cut_sources, self._encoder.max_source_length),
                ("target", cut_targets, self._encoder.max_target_length),
            )
            if cut
        ]
        return max(tokens, 1) / len(looked_at), remarks


def _whole_pairs(pairs: Pairs) -> tuple[Tensor, list[str]]:
    """int64 [N]: the pairs of which both texts are there; and what to say of the others."""
    if len(pairs) > MOST_READ:
        return torch.arange(len(pairs)), []
    empty = [row for row, pair in _all(pairs) if not pair.is_whole]
    if not empty:
        return torch.arange(len(pairs)), []
    kept = torch.ones(len(pairs), dtype=torch.bool)
    kept[empty] = False
    places = ", ".join(pairs.place(row) for row in empty[:SHOWN_PLACES])
    more = ", ..." if len(empty) > SHOWN_PLACES else ""
    remark = f"{len(empty):,} of {len(pairs):,} pairs were left out, because a text is empty: {places}{more}."
    return kept.nonzero().squeeze(1), [remark]


def _all(pairs: Pairs) -> Iterator[tuple[int, Pair]]:
    for start in range(0, len(pairs), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(pairs)))
        yield from zip(rows, pairs.rows(rows), strict=True)
        pulse()
