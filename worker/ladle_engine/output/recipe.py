"""What each output tensor is made from: `sum_i alpha_i w_i` in float64, block by block."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.checkpoints.check import has_finite_sum, refuse_non_finite
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.checkpoints.types import CheckpointSet, TensorReader
from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients, RandomPart
from ladle_engine.errors import CheckpointError
from ladle_engine.output.overflow import SATURATING, largest, limit, too_large

BLOCK_ELEMENTS = 1 << 20
"""How many elements of a tensor are written at once."""

SUMMED_ELEMENTS = 1 << 15
"""How many are summed at once: they stay in the cache, and torch starts no parallel region for so few. Where another
process holds one of two cores, threads that wait for each other cost 65 ns an element instead of 1."""

OUTPUT_DTYPES: dict[str, torch.dtype | None] = {
    "keep": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the bytes of a model's tensors."""

    checkpoints: CheckpointSet
    coefficients: Coefficients
    output_dtypes: Mapping[str, torch.dtype]
    """Name -> type, for every tensor that is written, in order. Aliases of tied tensors are not here."""
    statistics: Mapping[str, Tensor]
    """Buffers that were made for this mixture and are not the checkpoints' sum."""

    def tensor(self, name: str, readers: Sequence[TensorReader]) -> Tensor:
        """The output tensor `name`, in memory of its own, on the CPU."""
        start = torch.empty(0, dtype=self.output_dtypes[name])
        return torch.cat([start, *self.blocks(name, readers)]).view(self.checkpoints.tensors[name].shape)

    def blocks(self, name: str, readers: Sequence[TensorReader]) -> Iterator[Tensor]:
        """The flat output tensor `name` in parts of at most `BLOCK_ELEMENTS`, which may be memory-mapped.

        Raises `CheckpointError` (non-finite-weights) that names the checkpoint or, where it is the sum that the
        output's type cannot hold, the tensor and its largest value.
        """
        dtype = self.output_dtypes[name]
        is_sound = False
        for block in self._blocks(name, readers, dtype):
            if not is_sound and _is_suspect(block):
                self._refuse_non_finite(name, readers)
                self._refuse_overflow(name, readers)
                is_sound = True
            yield block

    def _blocks(self, name: str, readers: Sequence[TensorReader], dtype: torch.dtype) -> Iterator[Tensor]:
        if name in self.statistics or self._copied_from(name, readers) is not None:
            (tensor,) = self.sources(name, readers)
            return _parts(tensor, dtype)
        weights, alpha_K = [reader.read(name) for reader in readers], self.coefficients.of(name)
        random, group = self.coefficients.random, self.coefficients.group_of[name]
        if random is None:
            return combine(weights, alpha_K, dtype)
        return _with_random(combine(weights, alpha_K, torch.float64), random, name, group, dtype)

    def _copied_from(self, name: str, readers: Sequence[TensorReader]) -> int | None:
        """The checkpoint whose tensor is taken as it is; None for a sum."""
        single = self.coefficients.single()
        if single is None and name in self.coefficients.group_of:
            return None
        # Counters, masks and what the model has no use for are the reference's, never averaged; and a counter that a
        # single checkpoint lacks.
        has_it = single is not None and name in readers[single].tensors()
        return single if has_it else len(readers) - 1

    def sources(self, name: str, readers: Sequence[TensorReader]) -> list[Tensor]:
        """What the output tensor `name` is made from, which may be memory-mapped."""
        if name in self.statistics:
            return [self.statistics[name]]
        if (single := self._copied_from(name, readers)) is not None:
            return [readers[single].read(name)]
        alpha_K = self.coefficients.of(name).tolist()
        return [reader.read(name) for reader, alpha in zip(readers, alpha_K, strict=True) if alpha != 0.0]

    def _refuse_non_finite(self, name: str, readers: Sequence[TensorReader]) -> None:
        """Returns when all that the tensor is made from are finite: then only the sum may not be."""
        if name in self.statistics:
            return
        for checkpoint, reader in zip(self.checkpoints.checkpoints, readers, strict=True):
            refuse_non_finite(checkpoint, name, reader.read(name))

    def _refuse_overflow(self, name: str, readers: Sequence[TensorReader]) -> None:
        """Returns when all numbers are finite in the output's type: then only the sum over them was not."""
        dtype = self.output_dtypes[name]
        wide = torch.complex128 if dtype.is_complex else torch.float64
        value = max(largest(block) for block in self._blocks(name, readers, wide))
        if not value < limit(dtype):
            single = self._copied_from(name, readers)
            whose = "the average" if single is None else f"`{self.checkpoints.names[single]}`"
            raise CheckpointError("non-finite-weights", too_large(name, whose, value, dtype))


def _is_suspect(block: Tensor) -> bool:
    """Whether some of the numbers may not be what was summed; exactly those are looked for where this says yes."""
    if not (block.is_floating_point() or block.is_complex()):
        return False
    if block.dtype in SATURATING and largest(block) == torch.finfo(block.dtype).max:
        return True
    return not has_finite_sum(block)


def output_dtypes(checkpoints: CheckpointSet, choice: str, aliases: Collection[str] = ()) -> dict[str, torch.dtype]:
    """The type of every tensor that is written, which is all but `aliases`.

    `choice` is a key of `OUTPUT_DTYPES`; it leaves integers alone.
    """
    chosen = OUTPUT_DTYPES[choice]
    return {
        name: chosen if chosen is not None and info.is_floating else info.dtype
        for name, info in checkpoints.tensors.items()
        if name not in aliases
    }


def combine(weights: Sequence[Tensor], alpha_K: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """`sum_i alpha_i w_i`, flat, in blocks; accumulated in float64 in the order of the checkpoints and rounded once.

    Complex numbers are summed as pairs. A tensor that is the same everywhere comes out bit for bit: the weights sum to
    1 only up to rounding.
    """
    averages = abs(float(alpha_K.sum()) - 1.0) <= SUM_TOLERANCE
    if averages and all(same_bits(weights[0], other) for other in weights[1:]):
        yield from _parts(weights[0], dtype)
        return
    if dtype.is_complex:
        pairs = [torch.view_as_real(tensor) for tensor in weights]
        for block in combine(pairs, alpha_K, dtype.to_real()):
            yield torch.view_as_complex(block.view(-1, 2))
        return
    used = [
        (tensor.reshape(-1), float(alpha))
        for tensor, alpha in zip(weights, alpha_K.tolist(), strict=True)
        if alpha != 0.0
    ]
    is_mean = averages and len({alpha for _, alpha in used}) == 1
    scratch_2C = torch.empty(2, SUMMED_ELEMENTS, dtype=torch.float64)
    for start in range(0, weights[0].numel(), BLOCK_ELEMENTS):
        block = torch.empty(min(BLOCK_ELEMENTS, weights[0].numel() - start), dtype=dtype)
        position = start
        for part_C in block.split(SUMMED_ELEMENTS):
            sum_C, wide_C = scratch_2C[:, : len(part_C)]
            sum_C.zero_()
            for tensor, alpha in used:
                wide_C.copy_(tensor[position : position + len(part_C)])
                # Equal weights are a mean: one division at the end is the arithmetic mean exactly, K products are not.
                sum_C.add_(wide_C, alpha=1.0 if is_mean else alpha)
            if is_mean:
                sum_C.div_(len(used))
            part_C.copy_(sum_C)
            position += len(part_C)
        yield block


def _with_random(
    blocks: Iterator[Tensor], random: RandomPart, name: str, group: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Adds a tensor's random directions to its blocks, in float64, and rounds once."""
    start = 0
    for block in blocks:
        random.add_to(block, name, start, group)
        start += len(block)
        yield block.to(dtype)


def _parts(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), BLOCK_ELEMENTS):
        yield flat[start : start + BLOCK_ELEMENTS].to(dtype)
