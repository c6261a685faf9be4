"""Blocks of documents: which tokens stand together in an example, and which of them are predicted."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.text.language.token_store import TokenSource
from ladle_engine.tasks.text.token_losses import IGNORED


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Runs of tokens, each of one document, in the order of their blocks. Arrays, because there may be millions."""

    starts: NDArray[np.int64]
    """Of the first token that goes into the model."""
    lengths: NDArray[np.int64]
    """How many go in. Each has the token behind it as its target."""
    skipped: NDArray[np.int64]
    """How many targets at the beginning are context only: an earlier piece predicts them."""
    offsets: NDArray[np.int64]
    """The first piece of each block, and the number of pieces."""
    num_predicted: int
    """Tokens."""

    @property
    def num_blocks(self) -> int:
        return len(self.offsets) - 1


class Packer:
    """Puts documents into blocks in the order in which they come: a document that fits into a block is never cut."""

    def __init__(self, block_size: int, *, stride: int | None = None, limit: int | None = None) -> None:
        """With a `stride`, windows of `block_size` tokens begin every so many tokens of a long document; otherwise they
        follow each other, each beginning with the last token of the one before, so that every token but a document's
        first is predicted once. `limit` is the most blocks.
        """
        self._window = block_size if stride is not None else block_size + 1
        self._step = stride or block_size
        self._block_size = block_size
        self._limit = limit
        self._columns = [array("q") for _ in range(5)]
        """Of the pieces: start, length, skipped, predicted, block."""
        self._num_blocks = 0
        self._open: tuple[int, int] | None = None
        """Number of the block that has room, and its tokens."""

    @property
    def is_full(self) -> bool:
        """Whether what comes would only go into blocks beyond the limit."""
        return self._limit is not None and self._num_blocks > self._limit

    def add(self, start: int, length: int, *, alone: bool = False, predicted: int | None = None) -> bool:
        """A document of `length` tokens from `start` on; `alone` keeps others out of its blocks. `predicted` says how
        many tokens are, where not all but the first; then the document must fit into a block.

        Returns whether there is anything to predict.
        """
        if length < 2:
            return False
        begins = np.arange(0, max(length - self._window, 0) + self._step, self._step, dtype=np.int64)
        begins = begins[begins < length - 1]
        lasts = np.minimum(begins + self._window, length)
        # The first window that reaches the end is the last one.
        count = int(np.searchsorted(lasts, length)) + 1
        begins, lasts = begins[:count], lasts[:count]
        inputs = lasts - begins - 1
        skipped = np.maximum(np.concatenate([[0], lasts[:-1]]) - (begins + 1), 0)
        counts = inputs - skipped if predicted is None else np.array([predicted])
        columns = [start + begins, inputs, skipped, counts]
        self._put_alone([column if alone else column[:-1] for column in columns])
        if not alone:
            self._put_together([int(column[-1]) for column in columns])
        return True

    def pieces(self) -> Pieces:
        starts, lengths, skipped, predicted, blocks = (np.array(column, dtype=np.int64) for column in self._columns)
        order = np.argsort(blocks, kind="stable")
        if self._limit is not None:
            order = order[blocks[order] < self._limit]
        num_blocks = self._num_blocks if self._limit is None else min(self._num_blocks, self._limit)
        offsets = np.searchsorted(blocks[order], np.arange(num_blocks + 1))
        return Pieces(
            starts=starts[order],
            lengths=lengths[order],
            skipped=skipped[order],
            offsets=offsets,
            num_predicted=int(predicted[order].sum()),
        )

    def _put_alone(self, pieces: Sequence[NDArray[np.int64]]) -> None:
        count = len(pieces[0])
        blocks = np.arange(self._num_blocks, self._num_blocks + count, dtype=np.int64)
        for column, values in zip(self._columns, (*pieces, blocks), strict=True):
            column.frombytes(values.astype(np.int64).tobytes())
        self._num_blocks += count

    def _put_together(self, piece: Sequence[int]) -> None:
        length = piece[1]
        block, tokens = self._open or (0, self._block_size)
        if tokens + length > self._block_size:
            block, tokens = self._num_blocks, 0
            self._num_blocks += 1
        self._open = (block, tokens + length)
        for column, value in zip(self._columns, (*piece, block), strict=True):
            column.append(value)


class Blocks:
    """A data set of blocks: `input_ids`, `targets` and `positions`, int64 [B, T]; `bytes` of the text that is predicted
    and `scale`, one over the mean number of predicted tokens of a block, float32 [B].

    Positions count from 0 in each document. Behind the last one is padding, which goes on counting.
    """

    def __init__(self, source: TokenSource, pieces: Pieces, remarks: Sequence[str] = ()) -> None:
        self._source = source
        self._pieces = pieces
        self._scale = pieces.num_blocks / max(pieces.num_predicted, 1)
        self.remarks = remarks

    def __len__(self) -> int:
        return self._pieces.num_blocks

    def batch(self, indices: Tensor) -> Batch:
        offsets, lengths = self._pieces.offsets, self._pieces.lengths
        spans = [range(int(offsets[block]), int(offsets[block + 1])) for block in indices.tolist()]
        shape = (len(spans), max((int(lengths[span.start : span.stop].sum()) for span in spans), default=1))
        ids, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        num_bytes = np.zeros(len(spans), dtype=np.int64)
        for row, span in enumerate(spans):
            column = 0
            for piece in span:
                stop = column + int(lengths[piece])
                num_bytes[row] += self._fill(piece, ids[row, column:stop], targets[row, column:stop])
                # To the end of the row, in case that nothing comes behind.
                positions[row, column:] = np.arange(shape[1] - column)
                column = stop
        return {
            "input_ids": torch.from_numpy(ids),
            "targets": torch.from_numpy(targets),
            "positions": torch.from_numpy(positions),
            "bytes": torch.from_numpy(num_bytes),
            "scale": torch.full((len(spans),), self._scale, dtype=torch.float32),
        }

    def _fill(self, piece: int, ids: NDArray[np.int64], targets: NDArray[np.int64]) -> int:
        """Returns how many bytes of text the predicted tokens stand for."""
        pieces = self._pieces
        start, length, skipped = (int(each[piece]) for each in (pieces.starts, pieces.lengths, pieces.skipped))
        tokens = self._source.read(start, start + length + 1)
        ids[:] = tokens["id"][:-1]
        wanted = tokens[1:]
        counted = wanted["counts"].copy()
        counted[:skipped] = False
        targets[counted] = wanted["id"][counted]
        return int(wanted["bytes"][counted].sum(dtype=np.int64))
