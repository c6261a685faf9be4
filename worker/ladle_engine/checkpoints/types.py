"""What a folder of checkpoints is to the rest of the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import BytesSource


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_floating(self) -> bool:
        return self.dtype.is_floating_point


class TensorReader(Protocol):
    """One open checkpoint. Names are normalised: wrappers such as `module.` are gone."""

    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def read(self, name: str) -> Tensor:
        """The tensor in its own dtype, on the CPU, contiguous."""
        ...

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        """Fills `out`, flat, contiguous and of the tensor's dtype, with its numbers from `start` on.

        Raises `EngineError` (inputs-changed) where the file has become shorter.
        """
        ...

    def position(self, name: str) -> tuple[int, int]:
        """Which file it is in, and its first byte there. Who reads in this order reads each file from front to back."""
        ...

    def extent(self, name: str) -> tuple[int, Range] | None:
        """Which file it is in, and all bytes that it has there; None where its numbers do not stand there in order."""
        ...

    @property
    def files(self) -> Sequence[BytesSource]:
        """What its tensors are read from."""
        ...

    def through(self, files: Sequence[BytesSource]) -> TensorReader:
        """The same tensors, read from other sources of the same files."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved set of weights."""

    name: str
    """Its path relative to the folder: `epoch-3.safetensors`, `checkpoint-100`."""
    step: int | None
    files: tuple[Path, ...]
    """The weight files: one, or the shards of an index."""
    format: str
    """A key of `readers.READERS`."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSet:
    """K checkpoints of one architecture, in order of step; the last one is the reference."""

    folder: Path
    checkpoints: tuple[Checkpoint, ...]
    tensors: Mapping[str, TensorInfo]
    """Name -> shape and dtype, as in the reference, in the reference's order."""
    config: Mapping[str, Any] | None
    """The parsed `config.json` of the folder, or of the reference checkpoint's own folder."""
    side_files: tuple[Path, ...]
    """Config, tokenizer and other small files that belong to the model and are copied to the output."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    def of(self, names: Sequence[str]) -> CheckpointSet:
        """The same set with only these checkpoints, in this order."""
        by_name = {checkpoint.name: checkpoint for checkpoint in self.checkpoints}
        return replace(self, checkpoints=tuple(by_name[name] for name in names))

    @property
    def reference(self) -> Checkpoint:
        return self.checkpoints[-1]
