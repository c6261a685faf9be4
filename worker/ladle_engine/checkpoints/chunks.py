"""The same numbers of every checkpoint, side by side, converted: what is summed, checked and measured.

Shape suffixes: K checkpoints, C numbers of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.checkpoints.types import TensorReader

CHUNK_NUMBERS = 1 << 20
"""How many numbers, over all checkpoints, are read and converted at once (8 MiB as float64)."""

BLOCK_ELEMENTS = 1 << 20
"""How many numbers of one tensor are looked at at once."""

CONVERTED_ELEMENTS = 1 << 15
"""How many are converted at once: they stay in the cache, and torch starts no threads for so few."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive elements of one flattened tensor."""

    name: str
    start: int
    """In the tensor."""
    length: int
    offset: int
    """In the chunk, or whatever else it is a piece of."""


def blocks_of(reader: TensorReader, name: str) -> Iterator[Tensor]:
    """One checkpoint's tensor, flat, in its own type, from its beginning to its end."""
    info = reader.tensors()[name]
    for start in range(0, info.numel, BLOCK_ELEMENTS):
        block = torch.empty(min(BLOCK_ELEMENTS, info.numel - start), dtype=info.dtype)
        reader.read_into(name, start, block)
        yield block


def same_tensors(one: tuple[TensorReader, str], other: tuple[TensorReader, str]) -> bool:
    """Whether two stored tensors of as many numbers are the same, bit for bit. Reads to the first difference."""
    return all(same_bits(mine, theirs) for mine, theirs in zip(blocks_of(*one), blocks_of(*other), strict=True))


def differs(name: str, readers: Sequence[TensorReader]) -> bool:
    """Whether a tensor is not the same, bit for bit, in all checkpoints that have it."""
    first, *others = [(reader, name) for reader in readers if name in reader.tensors()]
    return any(not same_tensors(first, other) for other in others)


def chunk_length(num_checkpoints: int, multiple_of: int = 1) -> int:
    """C, where the chunks are as long as `CHUNK_NUMBERS` lets them be."""
    return max(CHUNK_NUMBERS // max(num_checkpoints, 1) // multiple_of * multiple_of, multiple_of)


def chunks_of(readers: Sequence[TensorReader], name: str, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Yields `(start, weights_KC)` for one tensor from its beginning to its end."""
    length = readers[0].tensors()[name].numel
    step = chunk_length(len(readers))
    for start in range(0, length, step):
        yield (
            start,
            read_pieces(readers, [Piece(name=name, start=start, length=min(step, length - start), offset=0)], dtype),
        )


def read_pieces(readers: Sequence[TensorReader], pieces: Sequence[Piece], dtype: torch.dtype) -> Tensor:
    """`weights_KC`: the pieces, which lie one after the other, from every checkpoint."""
    weights_KC = torch.empty(len(readers), sum(piece.length for piece in pieces), dtype=dtype)
    longest = max((piece.length for piece in pieces), default=0)
    for row_C, reader in zip(weights_KC, readers, strict=True):
        raw: dict[torch.dtype, Tensor] = {}
        for piece in pieces:
            target = row_C[piece.offset : piece.offset + piece.length]
            stored = reader.tensors()[piece.name].dtype
            if stored == dtype:
                reader.read_into(piece.name, piece.start, target)
                continue
            if stored not in raw:
                raw[stored] = torch.empty(longest, dtype=stored)
            read = raw[stored][: piece.length]
            reader.read_into(piece.name, piece.start, read)
            _convert(read, target)
    return weights_KC


def _convert(numbers: Tensor, target: Tensor) -> None:
    for part, converted in zip(numbers.split(CONVERTED_ELEMENTS), target.split(CONVERTED_ELEMENTS), strict=True):
        converted.copy_(part)
