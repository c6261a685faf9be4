"""A tensor whose numbers stand in one file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.storage.input_file import BytesSource, bytes_of


@dataclass(frozen=True, kw_only=True, slots=True)
class InFile:
    """A tensor whose numbers stand in a file."""

    info: TensorInfo
    offset: int
    """Of its first number, in bytes."""
    stride: tuple[int, ...] | None = None
    """In numbers, as torch counts; None where they stand one after the other."""
    is_negated: bool = False
    is_conjugated: bool = False

    @property
    def num_bytes(self) -> int:
        """From the first number to the last, with what lies between."""
        if self.stride is None or not self.info.numel:
            return self.info.numel * self.info.dtype.itemsize
        last = sum((size - 1) * step for size, step in zip(self.info.shape, self.stride, strict=True))
        return (last + 1) * self.info.dtype.itemsize

    def moved(self, num_bytes: int) -> InFile:
        """The same of a file that this one is a part of, from a byte on."""
        return replace(self, offset=self.offset + num_bytes)

    def dense(self, file: BytesSource) -> Tensor:
        """All numbers, in their order."""
        numbers = torch.empty(self.num_bytes // self.info.dtype.itemsize, dtype=self.info.dtype)
        if numbers.numel():
            file.read_into(bytes_of(numbers), self.offset)
        return self.arranged(numbers)

    def arranged(self, numbers: Tensor) -> Tensor:
        """The same of what was read, from the first number to the last."""
        values = numbers.view(self.info.shape) if self.stride is None else self._strided(numbers)
        values = values.conj().resolve_conj() if self.is_conjugated else values
        return values.neg() if self.is_negated else values

    def _strided(self, numbers: Tensor) -> Tensor:
        assert self.stride is not None
        if not self.info.numel:
            return numbers.view(self.info.shape)
        return numbers.as_strided(self.info.shape, self.stride).contiguous()

    @property
    def is_plain(self) -> bool:
        """Whether any run of its numbers can be read as it stands."""
        return self.stride is None and not self.is_negated and not self.is_conjugated
