"""Boxes of numbers: parts of a tensor that reach from one index to another in each dimension."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Box = tuple[tuple[int, int], ...]
"""From an index to, and not including, another in each dimension."""

MAX_CORNERS = 1 << 21
"""Of all pieces of one tensor, which is cut in three or four dimensions at most by real tools."""

_Whole = np.ndarray[Any, np.dtype[np.int64]]


def box_of(offsets: Sequence[int], sizes: Sequence[int]) -> Box:
    return tuple((offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))


def sides(box: Box) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


def overlap(one: Box, other: Box) -> Box | None:
    found = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return found if all(start < stop for start, stop in found) else None


def within(inner: Box, outer: Box) -> Box:
    """The same box, counted from the beginning of another."""
    return tuple((start - first, stop - first) for (start, stop), (first, _) in zip(inner, outer, strict=True))


def flat_index(point: Sequence[int], shape: Sequence[int]) -> int:
    """Of an element, in the order in which a contiguous tensor has them."""
    index = 0
    for coordinate, size in zip(point, shape, strict=True):
        index = index * size + coordinate
    return index


def boxes_of_run(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The elements from `start` to `stop` of a flat tensor as boxes, in order: at most two for each dimension.

    In each of them all dimensions before some one have a single index, and all behind it are whole. So what a box has
    in common with any other one, is a run of that other one too.
    """
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    first, before = divmod(start, row)
    last, after = divmod(stop, row)
    if before:
        end = row if first < last else after
        yield from (((first, first + 1), *inner) for inner in boxes_of_run(shape[1:], before, end))
        if first == last:
            return
        first += 1
    if first < last:
        yield ((first, last), *((0, size) for size in shape[1:]))
    if after:
        yield from (((last, last + 1), *inner) for inner in boxes_of_run(shape[1:], 0, after))


def fault_of_cut(shape: Sequence[int], boxes: Sequence[Box]) -> str | None:
    """Why the boxes, none of them empty, do not make up the whole: what they do. None where each element is in one.

    Takes a time that grows as their number: how often each corner is an upper one, less how often it is a lower one, is
    the same for all boxes together and for the whole if, and only if, they fill it without gap or overlap.
    """
    volume, whole = sum(math.prod(sides(box)) for box in boxes), math.prod(shape)
    if volume != whole:
        return "overlap" if volume > whole else "leave a gap"
    cut = [axis for axis, size in enumerate(shape) if any(box[axis] != (0, size) for box in boxes)]
    if len(boxes) << len(cut) > MAX_CORNERS:
        return f"are {len(boxes):,} and cut it in {len(cut)} dimensions, which is too much, so they"
    if len(boxes) < 2 or not whole:
        return None
    sizes = [shape[axis] for axis in cut]
    corners, signs = _corners(np.array([[box[axis] for axis in cut] for box in boxes], dtype=np.int64), sizes)
    of_whole, whole_signs = _corners(np.array([[(0, size) for size in sizes]], dtype=np.int64), sizes)
    _, number = np.unique(np.concatenate([corners, of_whole]), return_inverse=True)
    counts = np.bincount(number, weights=np.concatenate([signs, -whole_signs]))
    return "overlap" if counts.any() else None


def _corners(boxes: _Whole, sizes: Sequence[int]) -> tuple[_Whole, _Whole]:
    """Of `boxes` (number, axis, side): all corners as single numbers, and 1 or -1 for each."""
    corners, signs = np.zeros(len(boxes), dtype=np.int64), np.ones(len(boxes), dtype=np.int64)
    for axis, size in enumerate(sizes):
        corners = (
            corners[:, None] * (size + 1) + np.repeat(boxes[:, axis], len(corners) // len(boxes), axis=0)
        ).ravel()
        signs = (signs[:, None] * np.array([1, -1])).ravel()
    return corners, signs


def rows_within(shape: Sequence[int], most: int) -> Iterator[Box]:
    """A tensor cut into runs of `most` elements at most, each a box, in order. One without elements is whole."""
    if math.prod(shape) <= most or not shape:
        yield tuple((0, size) for size in shape)
        return
    row = math.prod(shape[1:])
    if row > most:
        for index in range(shape[0]):
            yield from (((index, index + 1), *inner) for inner in rows_within(shape[1:], most))
        return
    step = most // row
    for start in range(0, shape[0], step):
        yield ((start, min(start + step, shape[0])), *((0, size) for size in shape[1:]))
