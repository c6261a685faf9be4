"""The data of masked language models: windows of texts, with tokens hidden that are the same every time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ladle_engine.errors import DataError, TaskError
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.tables import find_columns
from ladle_engine.tasks.text.language.encoding import Affixes, Encoder, affixes_of
from ladle_engine.tasks.text.language.text_sets import (
    COLUMN,
    PLAIN,
    TEXT_ROLE,
    TOKENS,
    Passed,
    Stored,
    TextSetOptions,
    has_columns,
    open_set,
    pieces_of_table,
    pieces_of_text_set,
    store_documents,
    unused_options,
)
from ladle_engine.tasks.text.language.token_files import Vocabulary, is_token_file, open_token_file
from ladle_engine.tasks.text.language.token_store import TokenSource, TokenStore
from ladle_engine.tasks.text.padding import lengths_of, mask_of, padded
from ladle_engine.tasks.text.token_losses import IGNORED

AS_MASK, AS_RANDOM = 0.8, 0.1
"""Of the hidden tokens: shares that become the mask, or any token; the others stay (Devlin et al. 2019)."""
UNMASKABLE = "Windows of special tokens alone, left out"


@dataclass(frozen=True, kw_only=True)
class MaskedSettings:
    options: TextSetOptions
    max_length: int
    mask_fraction: float
    seed: int
    vocabulary: int | None


@dataclass(frozen=True, kw_only=True)
class Hiding:
    """Which tokens are hidden: by the seed and the number of the example alone."""

    fraction: float
    seed: int
    mask_id: int
    num_tokens: int
    """Ids from 0 up to it are what a random token is drawn from."""
    special_ids: NDArray[np.int64]

    def apply(self, ids: NDArray[np.int64], example: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What the model gets, and the targets."""
        random = np.random.default_rng([self.seed, example])
        can_hide = ~np.isin(ids, self.special_ids)
        hidden = can_hide & (random.random(len(ids)) < self.fraction)
        if not hidden.any():
            hidden[random.choice(np.flatnonzero(can_hide))] = True
        kind = random.random(len(ids))
        others = random.integers(self.num_tokens, size=len(ids))
        shown = np.where(kind < AS_MASK, self.mask_id, np.where(kind < AS_MASK + AS_RANDOM, others, ids))
        return np.where(hidden, shown, ids), np.where(hidden, ids, IGNORED)


class MaskedWindows:
    """A data set: `input_ids`, `attention_mask` and `targets`, int64 [B, T], and `scale`, about one over the mean
    number of hidden tokens of an example, float32 [B].
    """

    def __init__(
        self,
        source: TokenSource,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        affixes: Affixes,
        hiding: Hiding,
        remarks: Sequence[str],
    ) -> None:
        self._source = source
        self._starts = starts
        self._lengths = lengths
        self._affixes = affixes
        self._hiding = hiding
        self._scale = 1 / max(hiding.fraction * float(lengths.mean()), 1.0)
        self.remarks = remarks

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, indices: Tensor) -> Batch:
        rows = [self._row(index) for index in indices.tolist()]
        ids, targets = ([torch.from_numpy(row[part]) for row in rows] for part in (0, 1))
        width = max(len(row) for row in ids)
        return {
            "input_ids": padded(ids, 0),
            "attention_mask": mask_of(lengths_of(ids), width),
            "targets": padded(targets, IGNORED),
            "scale": torch.full((len(rows),), self._scale, dtype=torch.float32),
        }

    def _row(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start, length = int(self._starts[index]), int(self._lengths[index])
        ids = self._source.read(start, start + length)["id"].astype(np.int64)
        shown, targets = self._hiding.apply(ids, index)
        before, behind = (np.array(each, dtype=np.int64) for each in (self._affixes.before, self._affixes.behind))
        return (
            np.concatenate([before, shown, behind]),
            np.concatenate([np.full(len(before), IGNORED), targets, np.full(len(behind), IGNORED)]),
        )


def open_masked_set(path: Path, settings: MaskedSettings, tokenizer: Any) -> MaskedWindows:
    """Raises `DataError`, and `TaskError` (model-mismatch) for a tokenizer without a mask."""
    hiding, passed = _hiding(settings, tokenizer), Passed()
    if is_token_file(path):
        options = settings.options
        opened = open_token_file(path, Vocabulary(size=settings.vocabulary), options.token_dtype, options.separator)
        ends = zip(opened.starts[:-1].tolist(), opened.starts[1:].tolist(), strict=True)
        documents: Iterator[Stored] = (Stored(start=start, length=end - start) for start, end in ends)
        source: TokenSource = opened.source
        # They have what special tokens they need.
        affixes = Affixes()
    else:
        source = store = TokenStore()
        affixes = affixes_of(tokenizer)
        documents = _texts(path, settings, store, tokenizer, passed)
    room = settings.max_length - len(affixes.before) - len(affixes.behind)
    starts, lengths = _windows(source, documents, room, settings.options.limit, hiding, passed)
    if len(starts) == 0:
        raise DataError(
            "empty-data", f"A set of texts must have words, but `{path}` has none. {' '.join(passed.remarks())}"
        )
    kind = TOKENS if is_token_file(path) else COLUMN if has_columns(path) else PLAIN
    remarks = [f"`{path.name}`: {remark}" for remark in passed.remarks()] + unused_options(settings.options, kind)
    return MaskedWindows(source, starts, lengths, affixes, hiding, remarks)


def _texts(path: Path, settings: MaskedSettings, store: TokenStore, tokenizer: Any, passed: Passed) -> Iterator[Stored]:
    options = settings.options
    if has_columns(path):
        table = open_set(path, options)
        column = find_columns(table, [TEXT_ROLE], options.columns)[TEXT_ROLE.name]
        pieces = pieces_of_table(table, column)
    else:
        pieces = pieces_of_text_set(path, options.documents, passed)
    return store_documents(
        store,
        Encoder(tokenizer, settings.vocabulary),
        pieces,
        Affixes(),
        boundaries=options.boundaries,
        most_tokens=None if options.limit is None else options.limit * settings.max_length,
        passed=passed,
    )


def _windows(
    source: TokenSource, documents: Iterator[Stored], room: int, limit: int | None, hiding: Hiding, passed: Passed
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where they start, and how long they are: one after the other, each of one document."""
    starts, lengths = array("q"), array("q")
    for document in documents:
        for start in range(document.start, document.start + document.length, room):
            length = min(room, document.start + document.length - start)
            if np.isin(source.read(start, start + length)["id"], hiding.special_ids).all():
                passed.add(UNMASKABLE)
                continue
            starts.append(start)
            lengths.append(length)
            if len(starts) == limit:
                return np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)
    return np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _hiding(settings: MaskedSettings, tokenizer: Any) -> Hiding:
    mask_id = getattr(tokenizer, "mask_token_id", None)
    if mask_id is None:
        raise TaskError(
            "model-mismatch",
            "Task `masked-lm` needs a tokenizer with a mask token, but the one beside the checkpoints has none "
            "(`mask_token` in `tokenizer_config.json`).",
        )
    return Hiding(
        fraction=settings.mask_fraction,
        seed=settings.seed,
        mask_id=int(mask_id),
        num_tokens=min(len(tokenizer), settings.vocabulary or len(tokenizer)),
        special_ids=np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64),
    )
