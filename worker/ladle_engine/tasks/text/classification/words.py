"""Sentences that are cut into words already, as tokens: which token is the first of each word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ladle_engine.tasks.text.classification.encoder import Encoder
from ladle_engine.tasks.text.rows import Row
from ladle_engine.tasks.text.token_losses import IGNORED

Places = np.ndarray[tuple[int], np.dtype[np.int32]]


@dataclass(frozen=True, kw_only=True)
class Words:
    row: Row
    """As the model takes it."""
    first_tokens: Places
    """For each word, the place of its first token; -1 for a word without one, or behind the cut."""

    def are_behind_cut(self, max_length: int | None) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """For each word, whether it is not there because a row ends after so many tokens."""
        there = np.flatnonzero(self.first_tokens >= 0)
        seen = int(there[-1]) + 1 if len(there) else 0
        is_full = max_length is not None and len(self.row["input_ids"]) >= max_length
        return (np.arange(len(self.first_tokens)) >= seen) & is_full

    def labels(self, tags: Sequence[int]) -> Places:
        """For each token the tag of its word, if it is the first one; `IGNORED` otherwise."""
        labels = np.full(len(self.row["input_ids"]), IGNORED, dtype=np.int32)
        there = self.first_tokens >= 0
        labels[self.first_tokens[there]] = np.asarray(tags, dtype=np.int32)[there]
        return labels


def encode_words(encoder: Encoder, sentences: Sequence[Sequence[str]]) -> list[Words]:
    """Cut at the encoder's `max_length`."""
    if not sentences:
        return []
    if not encoder.tokenizer.is_fast:
        return [_word_by_word(encoder, words) for words in sentences]
    encoded = encoder.encode([list(words) for words in sentences], is_split_into_words=True)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    return [
        Words(
            row={name: np.asarray(encoded[name][number], dtype=np.int32) for name in names},
            first_tokens=_first_places(encoded.word_ids(number), len(words)),
        )
        for number, words in enumerate(sentences)
    ]


def _word_by_word(encoder: Encoder, words: Sequence[str]) -> Words:
    """With a tokenizer that does not say which word a token is of."""
    tokenizer: Any = encoder.tokenizer
    ids_of_words = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word)) for word in words]
    word_of = [number for number, ids in enumerate(ids_of_words) for _ in ids]
    ids = [each for ids in ids_of_words for each in ids]
    if encoder.max_length is not None:
        room = max(encoder.max_length - tokenizer.num_special_tokens_to_add(pair=False), 0)
        ids, word_of = ids[:room], word_of[:room]
    special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=False)
    words_in_order = iter(word_of)
    word_ids = [None if each else next(words_in_order) for each in special]
    row = {"input_ids": np.asarray(tokenizer.build_inputs_with_special_tokens(ids), dtype=np.int32)}
    if encoder.has_types:
        row["token_type_ids"] = np.asarray(tokenizer.create_token_type_ids_from_sequences(ids), dtype=np.int32)
    return Words(row=row, first_tokens=_first_places(word_ids, len(words)))


def _first_places(word_ids: Sequence[int | None], num_words: int) -> Places:
    places = np.full(num_words, -1, dtype=np.int32)
    for place in range(len(word_ids) - 1, -1, -1):
        word = word_ids[place]
        if word is not None:
            places[word] = place
    return places
