"""What a folder of checkpoints is to the rest of the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


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
        """The tensor in its own dtype, on the CPU, memory-mapped where the format allows: never write to it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One saved set of weights."""

    name: str
    """Its path relative to the folder: `epoch-3.safetensors`, `checkpoint-100`."""
    step: int | float | None
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
    home: Path
    """The folder of the reference checkpoint's files."""
    order: str = "name"
    """What the order is by, for people: `step`, `epoch and step`, `number in the name`."""
    doubt: str | None = None
    """Where the names allow two orders: which, and how to choose."""
    warnings: tuple[str, ...] = ()
    """What was passed over or left out, and why."""
    identical: bool = False
    """All hold the same weights."""

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
