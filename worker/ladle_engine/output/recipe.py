"""What each output tensor is made from: `sum_i alpha_i w_i` in float64, block by block."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.checkpoints.check import has_finite_sum, refuse_non_finite
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.checkpoints.types import CheckpointSet, TensorReader
from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients
from ladle_engine.errors import CheckpointError
from ladle_engine.output.overflow import SATURATING, largest, limit, too_large

BLOCK_ELEMENTS = 1 << 20
"""How many elements of a tensor are written at once, at most."""

SOURCE_BYTES = 4 << 20
"""What is read at once, of all checkpoints together."""

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
    keeps_own: bool = True
    """Whether a single checkpoint keeps its own tensors, where they fit, of those that are left out of the average."""

    def tensor(self, name: str, readers: Sequence[TensorReader]) -> Tensor:
        """The output tensor `name`, in memory of its own, on the CPU. Raises as `block`."""
        start = torch.empty(0, dtype=self.output_dtypes[name])
        blocks = [self.block(name, *made_of, readers) for made_of in self.sources(name, readers)]
        return torch.cat([start, *blocks]).view(self.checkpoints.tensors[name].shape)

    def sources(self, name: str, readers: Sequence[TensorReader]) -> Iterator[tuple[int, list[Tensor]]]:
        """What the output tensor `name` is made from, read block by block: `(start, the same numbers of each)`."""
        if name in self.statistics:
            flat = self.statistics[name].reshape(-1)
            for start in range(0, len(flat), BLOCK_ELEMENTS):
                yield start, [flat[start : start + BLOCK_ELEMENTS]]
            return
        used = [readers[index] for index in self.used(name, readers)]
        itemsize = max(reader.tensors()[name].dtype.itemsize for reader in used)
        length = self.checkpoints.tensors[name].numel
        step = min(max(SOURCE_BYTES // (itemsize * len(used)), SUMMED_ELEMENTS), BLOCK_ELEMENTS)
        for start in range(0, length, step):
            blocks = []
            for reader in used:
                blocks.append(torch.empty(min(step, length - start), dtype=reader.tensors()[name].dtype))
                reader.read_into(name, start, blocks[-1])
            yield start, blocks

    def block(self, name: str, start: int, sources: Sequence[Tensor], readers: Sequence[TensorReader]) -> Tensor:
        """The flat output tensor `name` from `start` on, made from one item of `sources`.

        Raises `CheckpointError` (non-finite-weights) that names the checkpoint or, where it is the sum that the
        output's type cannot hold, the tensor and its largest value.
        """
        dtype = self.output_dtypes[name]
        block = self._made(name, start, sources, dtype)
        if _is_suspect(block):
            if name not in self.statistics:
                refuse_non_finite(self.checkpoints, readers, name)
            self._refuse_overflow(name, start, sources, readers)
        return block

    def num_bytes(self, name: str) -> int:
        """Of the output tensor `name`."""
        return self.checkpoints.tensors[name].numel * self.output_dtypes[name].itemsize

    def used(self, name: str, readers: Sequence[TensorReader]) -> list[int]:
        """The checkpoints that the output tensor `name` is made from."""
        if name in self.statistics:
            return []
        if (copied := self._copied_from(name, readers)) is not None:
            return [copied]
        return self._summed(name)

    def files(self, readers: Sequence[TensorReader]) -> set[Path]:
        """The weight files that anything is made from."""
        used = {index for name in self.output_dtypes for index in self.used(name, readers)}
        return {path for index in used for path in self.checkpoints.checkpoints[index].files}

    def _made(self, name: str, start: int, sources: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        if name in self.statistics or self._is_copied(name):
            return sources[0].to(dtype)
        alpha, random = self.coefficients.of(name)[self._summed(name)], self.coefficients.random
        if random is None:
            return combine(sources, alpha, dtype)
        block = combine(sources, alpha, torch.float64)
        random.add_to(block, name, start, self.coefficients.group_of[name])
        return block.to(dtype)

    def _summed(self, name: str) -> list[int]:
        return [index for index, alpha in enumerate(self.coefficients.of(name).tolist()) if alpha != 0.0]

    def _is_copied(self, name: str) -> bool:
        return self.coefficients.single() is not None or name not in self.coefficients.group_of

    def _copied_from(self, name: str, readers: Sequence[TensorReader]) -> int | None:
        """The checkpoint whose tensor is taken as it is; None for a sum."""
        if not self._is_copied(name):
            return None
        # Counters, masks and what the model has no use for are the reference's, never averaged; and a counter that a
        # single checkpoint lacks.
        single = self.coefficients.single()
        if single is None or (name in self.checkpoints.taken and not self.keeps_own):
            return self.checkpoints.source_of(name)
        return single if self.checkpoints.has_own(readers[single], name) else self.checkpoints.source_of(name)

    def _refuse_overflow(
        self, name: str, start: int, sources: Sequence[Tensor], readers: Sequence[TensorReader]
    ) -> None:
        """Returns when all numbers are finite in the output's type: then only the sum over them was not."""
        dtype = self.output_dtypes[name]
        wide = torch.complex128 if dtype.is_complex else torch.float64
        value = largest(self._made(name, start, sources, wide))
        if not value < limit(dtype):
            copied = self._copied_from(name, readers)
            whose = "the average" if copied is None else f"`{self.checkpoints.names[copied]}`"
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

    `choice` is a key of `OUTPUT_DTYPES`; it leaves integers alone, and factors of adapters in delta space, of which
    others are made.
    """
    chosen = OUTPUT_DTYPES[choice]
    unmade = set() if checkpoints.adapters is None else checkpoints.adapters.factors_in_delta_space
    return {
        name: chosen if chosen is not None and info.is_floating and name not in unmade else info.dtype
        for name, info in checkpoints.tensors.items()
        if name not in aliases
    }


def combine(weights: Sequence[Tensor], alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """`sum_i alpha_i w_i` of flat tensors; accumulated in float64 in the order of the checkpoints and rounded once.

    Complex numbers are summed as pairs. Numbers that are the same everywhere come out bit for bit: the weights sum to 1
    only up to rounding.
    """
    averages = abs(float(alpha.sum()) - 1.0) <= SUM_TOLERANCE
    if averages and all(same_bits(weights[0], other) for other in weights[1:]):
        return weights[0].to(dtype)
    if dtype.is_complex:
        pairs = [torch.view_as_real(tensor).view(-1) for tensor in weights]
        return torch.view_as_complex(combine(pairs, alpha, dtype.to_real()).view(-1, 2))
    shares = alpha.tolist()
    is_mean = averages and len(set(shares)) == 1
    scratch_2C = torch.empty(2, SUMMED_ELEMENTS, dtype=torch.float64)
    block = torch.empty(weights[0].numel(), dtype=dtype)
    position = 0
    for part_C in block.split(SUMMED_ELEMENTS):
        sum_C, wide_C = scratch_2C[:, : len(part_C)]
        sum_C.zero_()
        for tensor, share in zip(weights, shares, strict=True):
            wide_C.copy_(tensor[position : position + len(part_C)])
            # Equal weights are a mean: one division at the end is the arithmetic mean exactly, K products are not.
            sum_C.add_(wide_C, alpha=1.0 if is_mean else share)
        if is_mean:
            sum_C.div_(len(weights))
        part_C.copy_(sum_C)
        position += len(part_C)
    return block
