"""A tensor that is put together from pieces, which are boxes of it, in several files."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from ladle_engine.checkpoints.boxes import Box, boxes_of_run, flat_index, overlap, sides, within
from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import BytesSource, bytes_of


class PieceInFile:
    """One of the pieces; none is empty."""

    def __init__(self, box: Box, file: int, offset: int, place: InFile | Callable[[], InFile]) -> None:
        """`file` is one of the checkpoint's, by its number. `offset` is near its numbers, for who reads in order; where
        they are exactly, `place` may say only once they are wanted. It raises `CheckpointError`."""
        self.box = box
        self.file = file
        self.offset = offset
        self._place = place

    @cached_property
    def place(self) -> InFile:
        return self._place() if callable(self._place) else self._place


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Reads by position like any other tensor.

    Its pieces, which `fault_of_cut` has checked, are in order of their first elements.
    """

    info: TensorInfo
    pieces: tuple[PieceInFile, ...]

    is_plain = False

    @property
    def position(self) -> tuple[int, int]:
        """One order for all files: those of ranks hold the same tensors one after the other, side by side."""
        return 0, min((piece.offset for piece in self.pieces), default=0)

    @property
    def extent(self) -> tuple[int, Range] | None:
        """Of one that is in one piece."""
        if len(self.pieces) != 1 or not (place := self.pieces[0].place).is_plain:
            return None
        return self.pieces[0].file, (place.offset, place.offset + place.num_bytes)

    def dense(self, *files: BytesSource) -> Tensor:
        """All numbers, in their order."""
        numbers = torch.empty(self.info.shape, dtype=self.info.dtype)
        self.read_into(files, 0, numbers.view(-1))
        return numbers

    def read_into(self, files: Sequence[BytesSource], start: int, out: Tensor) -> None:
        """Fills `out`, flat, with the numbers from `start` on. Takes no more memory than that has, for pieces whose
        numbers stand one after the other."""
        done = 0
        for box in boxes_of_run(self.info.shape, start, start + out.numel()):
            length = math.prod(sides(box))
            target = out[done : done + length].view(sides(box))
            for piece, common in self._overlapping(box, start + done, start + done + length):
                slices = tuple(slice(*side) for side in within(common, box))
                _read_run(files[piece.file], piece, common, target[slices])
            done += length

    def _overlapping(self, box: Box, start: int, stop: int) -> Iterator[tuple[PieceInFile, Box]]:
        first = bisect_right(self._last_so_far, start)
        end = bisect_left(self._firsts, stop)
        for piece in self.pieces[first:end]:
            if (common := overlap(box, piece.box)) is not None:
                yield piece, common

    @cached_property
    def _firsts(self) -> list[int]:
        """Of each piece, its first element."""
        return [flat_index([side[0] for side in piece.box], self.info.shape) for piece in self.pieces]

    @cached_property
    def _last_so_far(self) -> list[int]:
        """Of all pieces up to each, the end of their last element."""
        ends = (flat_index([side[1] - 1 for side in piece.box], self.info.shape) + 1 for piece in self.pieces)
        return list(accumulate(ends, max))


def pieces_in_order(info: TensorInfo, pieces: Sequence[PieceInFile]) -> Pieces:
    in_order = sorted(pieces, key=lambda piece: flat_index([side[0] for side in piece.box], info.shape))
    return Pieces(info=info, pieces=tuple(in_order))


def _read_run(file: BytesSource, piece: PieceInFile, common: Box, target: Tensor) -> None:
    """What a box of `boxes_of_run` has in common with a piece, which is a run of the piece."""
    place, shape = piece.place, sides(piece.box)
    inner = within(common, piece.box)
    if not place.is_plain:
        target.copy_(place.dense(file)[tuple(slice(*side) for side in inner)])
        return
    offset = place.offset + flat_index([side[0] for side in inner], shape) * target.itemsize
    if target.is_contiguous():
        file.read_into(bytes_of(target), offset)
        return
    numbers = torch.empty(target.shape, dtype=target.dtype)
    file.read_into(bytes_of(numbers), offset)
    target.copy_(numbers)
