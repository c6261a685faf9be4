"""How far apart checkpoints are, from a part of their numbers: what an inspection reads of weights when it is asked to.

Squares of distances are sums over all numbers. A tensor's share of them is taken from blocks that are spread evenly
over it, times how many numbers stand for each that was read. Of models with few enough numbers all are read, and
nothing is estimated.

Shape suffixes: R rows (a base, if there is one, and K checkpoints), C numbers of one block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.checkpoints.chunks import Piece, chunk_length, read_pieces
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.subspace.geometry import without_rounding

MOST_NUMBERS = 1 << 26
"""That are read, of all checkpoints together: 256 MiB of float32, a few seconds."""
MOST_OF_ONE = 1 << 20
"""That are read of each checkpoint."""
BLOCK = 1 << 10
"""Consecutive numbers that are read at once."""
STATISTICS = ("running_mean", "running_var")
"""How the names of tensors end that are no parameters, although they are averaged."""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """As a job's geometry has them, but for what was not read."""

    between_KK: Tensor
    centre_norm: float
    from_base: tuple[float, ...] = ()
    is_whole: bool
    """Whether all numbers were read."""


def measure(checkpoints: CheckpointSet) -> Distances:
    """Raises `EngineError` and `OSError` as readers do."""
    rows = checkpoints.with_base
    R, has_base = len(rows.checkpoints), checkpoints.base is not None
    most = min(MOST_OF_ONE, MOST_NUMBERS // R)
    gram_RR = torch.zeros(R, R, dtype=torch.float64)
    centre = 0.0
    lengths = {
        name: checkpoints.tensors[name].numel
        for name in checkpoints.averaged
        if checkpoints.tensors[name].is_floating and not name.endswith(STATISTICS)
    }
    total = sum(lengths.values())
    with open_all(rows) as readers:
        for name, length in lengths.items():
            in_order = all(reader.extent(name) is not None for reader in readers)
            pieces = _pieces(name, length, most / total, chunk_length(R), in_order=in_order)
            share = length / max(sum(piece.length for piece in pieces), 1)
            for piece in pieces:
                weights_RC = read_pieces(readers, [piece], torch.float64)
                centre_C = weights_RC[has_base:].mean(dim=0)
                moved_RC = weights_RC - centre_C
                gram_RR += share * (moved_RC @ moved_RC.T)
                centre += share * float(centre_C @ centre_C)
    squared_R = gram_RR.diagonal()
    distances_RR = (squared_R[:, None] + squared_R[None, :] - 2 * gram_RR).clamp(min=0).sqrt()
    from_base = without_rounding(distances_RR[0, 1:], distances_RR.max()).tolist() if has_base else ()
    return Distances(
        between_KK=distances_RR[has_base:, has_base:],
        centre_norm=centre**0.5,
        from_base=tuple(from_base),
        is_whole=total <= most,
    )


def _pieces(name: str, length: int, share: float, longest: int, *, in_order: bool) -> list[Piece]:
    """Blocks of a tensor, spread evenly; the whole of it where so much is to be read, or where a file does not hold its
    numbers in order and would be read whole for each."""
    count = math.ceil(length * share / BLOCK)
    if count * BLOCK >= length or not in_order:
        step = longest if in_order else length
        return [Piece(name=name, start=at, length=min(step, length - at), offset=0) for at in range(0, length, step)]
    starts = [(length - BLOCK) * number // max(count - 1, 1) for number in range(count)]
    return [Piece(name=name, start=start, length=BLOCK, offset=0) for start in starts]
