"""Buckets: the model's parameters as a few flat vectors, so that thousands of small tensors cost a few operations.

Shape suffixes: K checkpoints, P elements of one bucket, C elements of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.chunks import Piece, chunk_length, read_pieces
from ladle_engine.checkpoints.types import TensorReader
from ladle_engine.directions.formats import BLOCK
from ladle_engine.model.local_shard import local_part

BUCKET_ELEMENTS = 1 << 24
"""A bucket closes when it has this many (64 MiB as float32); a larger tensor is one alone."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Pieces one after the other; all of one group."""

    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        return self.pieces[-1].offset + self.pieces[-1].length if self.pieces else 0

    def cut(self, start: int, stop: int) -> Bucket:
        """The elements from `start` to `stop`, as a bucket of its own; beyond the end there are none."""
        pieces = []
        for piece in self.pieces:
            first, last = max(piece.offset, start), min(piece.offset + piece.length, stop)
            if first < last:
                pieces.append(
                    Piece(
                        name=piece.name,
                        start=piece.start + first - piece.offset,
                        length=last - first,
                        offset=first - start,
                    )
                )
        return Bucket(pieces=tuple(pieces))


def make_buckets(parameters: Mapping[str, nn.Parameter], key: Callable[[str], object]) -> tuple[Bucket, ...]:
    """This rank's elements of all parameters, in their order; only those of one `key` share a bucket."""
    buckets: list[Bucket] = []
    open_pieces: dict[object, list[Piece]] = {}
    for name, parameter in parameters.items():
        local, start = local_part(parameter)
        pieces = open_pieces.setdefault(key(name), [])
        offset = pieces[-1].offset + pieces[-1].length if pieces else 0
        if pieces and offset + local.numel() > BUCKET_ELEMENTS:
            buckets.append(Bucket(pieces=tuple(pieces)))
            pieces.clear()
            offset = 0
        if local.numel():
            pieces.append(Piece(name=name, start=start, length=local.numel(), offset=offset))
    return (*buckets, *(Bucket(pieces=tuple(pieces)) for pieces in open_pieces.values() if pieces))


def flat_copy(parameters: Mapping[str, nn.Parameter], bucket: Bucket) -> Tensor:
    """What the model now holds of a bucket."""
    parts = []
    for piece in bucket.pieces:
        local, start = local_part(parameters[piece.name])
        parts.append(local[piece.start - start : piece.start - start + piece.length])
    return torch.cat(parts) if parts else torch.empty(0)


def in_order_of_files(buckets: Sequence[Bucket], reader: TensorReader) -> tuple[Bucket, ...]:
    """The same buckets, each with its pieces in the order in which a checkpoint's files have them."""
    ordered = []
    for bucket in buckets:
        pieces: list[Piece] = []
        offset = 0
        for piece in sorted(bucket.pieces, key=lambda piece: position_of(piece, reader)):
            pieces.append(replace(piece, offset=offset))
            offset += piece.length
        ordered.append(Bucket(pieces=tuple(pieces)))
    return tuple(ordered)


def position_of(piece: Piece, reader: TensorReader) -> tuple[int, int]:
    """Which file of a checkpoint it is in, and its first byte there."""
    file, offset = reader.position(piece.name)
    return file, offset + piece.start * reader.tensors()[piece.name].dtype.itemsize


def read_chunks(readers: Sequence[TensorReader], bucket: Bucket, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yields `(elements, weights_KC)`: the same elements of a bucket from every checkpoint, converted.

    Every chunk begins at a multiple of `formats.BLOCK`.
    """
    step = chunk_length(len(readers), multiple_of=BLOCK)
    for start in range(0, bucket.length, step):
        elements = slice(start, min(start + step, bucket.length))
        yield elements, read_pieces(readers, bucket.cut(elements.start, elements.stop).pieces, dtype)
