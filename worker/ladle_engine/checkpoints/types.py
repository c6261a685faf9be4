"""What a folder of checkpoints is to the rest of the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import BytesSource

BASE_PREFIX = "base:"
"""Begins the name of an ancestor that is no checkpoint of the folder."""

FLOATING_DTYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    }
)
"""float8_e8m0fnu and float4_e2m1fn_x2 are not here: scales and packed codes of quantised weights have no average."""

INTEGER_DTYPES = frozenset(
    {
        *(torch.bool, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    }
)

SUPPORTED_DTYPES = FLOATING_DTYPES | INTEGER_DTYPES | {torch.complex64}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_floating(self) -> bool:
        return self.dtype.is_floating_point

    @property
    def is_averaged(self) -> bool:
        """Floating or complex; all others are taken from one checkpoint."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    @property
    def kind(self) -> str:
        """What may not differ between checkpoints, as types may."""
        if self.dtype is torch.bool:
            return "boolean"
        if self.dtype.is_complex:
            return "complex"
        return "floating" if self.is_floating else "integer"

    def fits(self, other: TensorInfo) -> bool:
        """Whether one may stand in the place of the other."""
        return self.shape == other.shape and self.kind == other.kind


class TensorReader(Protocol):
    """One open checkpoint. Its names are the reference's, whatever prefixes the file has."""

    notes: tuple[str, ...]
    """What was decided while it was opened and the user should know, without the checkpoint's name."""

    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def stored_names(self) -> Mapping[str, str]:
        """Name -> name in the file."""
        ...

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
    step: int | float | None
    files: tuple[Path, ...]
    """The weight files: one, or the shards of an index."""
    format: str
    """A key of `readers.READERS`."""
    use_ema: bool = False
    """Whether its tensors are those of the average that was made while training, and lies beside the model."""
    run: str = ""
    """The folder of its training run, relative to the set's folder: `run-3` for `run-3/checkpoint-80`."""
    like: Mapping[str, TensorInfo] = field(default_factory=dict, compare=False, repr=False)
    """The tensors of its set: the names under which its own are asked for."""
    view: Any = field(default=None, compare=False, repr=False)
    """Of an adapter: the `adapters.reader.View` in which its set is averaged."""
    stand_ins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Name that it lacks -> its tensor that stands for it, because a model ties the two."""

    @property
    def name_in_run(self) -> str:
        """Its name without the run's: what says when it was saved."""
        return self.name.removeprefix(f"{self.run}/") if self.run else self.name

    def home_in(self, folder: Path) -> Path:
        """The folder that this is, or that its file lies in; `folder` is that of its set."""
        own = folder / self.name
        return own if own in self.files[0].parents else self.files[0].parent


@dataclass(frozen=True, kw_only=True)
class AdapterSet:
    """What is known of a set whose checkpoints are LoRA adapters."""

    space: str
    """`delta`, where tensors are the factors of what is added to the weights, or `factors`."""
    config: Mapping[str, Any]
    """The reference's `adapter_config.json`."""
    base: str | None
    """The base model, as the adapters name it."""
    modules: Mapping[str, Any]
    """Layer -> `adapters.modules.Module` of the reference."""
    ranks: tuple[int, ...]
    """Of each checkpoint, the largest of its layers."""
    num_parameters: int
    """Of the reference, as it is stored."""

    @property
    def factors_in_delta_space(self) -> set[str]:
        """The names of the tensors that are not written as they are combined."""
        if self.space != "delta":
            return set()
        return {name for module in self.modules.values() for name in (module.a, module.b)}


@dataclass(frozen=True, kw_only=True)
class CheckpointSet:
    """K checkpoints of one architecture, in order of step; the last one is the reference."""

    folder: Path
    """What was given or, of several, the folder that holds all of them; checkpoints' names are relative to it."""
    checkpoints: tuple[Checkpoint, ...]
    tensors: Mapping[str, TensorInfo]
    """Name -> shape and dtype, as in the reference, in the reference's order; of what is `taken`, as it is there."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Tensor that is left out of the average -> the checkpoint that it is taken from."""
    dropped: frozenset[str] = frozenset()
    """Tensors that are left out, and that the result lacks, because the checkpoint to take them from does."""
    config: Mapping[str, Any] | None
    """The parsed `config.json` of the folder, or of the reference checkpoint's own folder."""
    read: Mapping[Path, str] = field(default_factory=dict)
    """SHA-256 of what was read already: of the config."""
    side_files: tuple[Path, ...]
    """Config, tokenizer and other small files that belong to the model and are copied to the output."""
    home: Path
    """The folder of the reference checkpoint's files."""
    places: tuple[Path, ...]
    """The folders in which the model's side files are looked for, the first one first."""
    root: Path
    """The folder that was given and holds the reference. No link that leads out of it is followed."""
    order: str = "name"
    """What the order is by, for people: `step`, `epoch and step`, `number in the name`."""
    doubt: str | None = None
    """Where the names allow two orders: which, and how to choose."""
    warnings: tuple[str, ...] = ()
    """What was passed over or left out, and why."""
    identical: bool = False
    """All hold the same weights."""
    adapters: AdapterSet | None = None
    """None for whole models."""
    base: Checkpoint | None = None
    """The ancestor of all, such as the pretrained model: not one of the K, and a row of its own in coefficients."""

    def __post_init__(self) -> None:
        # Every checkpoint is to answer to the reference's names, whatever prefixes its own file has.
        asked = tuple(replace(checkpoint, like=self.tensors) for checkpoint in self.checkpoints)
        object.__setattr__(self, "checkpoints", asked)
        if self.base is not None:
            object.__setattr__(self, "base", replace(self.base, like=self.tensors))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    @property
    def known_steps(self) -> list[float | None]:
        """Of each checkpoint; of none where it is in doubt what follows what."""
        return [None if self.doubt else checkpoint.step for checkpoint in self.checkpoints]

    def of(self, names: Sequence[str]) -> CheckpointSet:
        """The same set with only these checkpoints, in this order."""
        by_name = {checkpoint.name: checkpoint for checkpoint in self.checkpoints}
        return replace(self, checkpoints=tuple(by_name[name] for name in names))

    @property
    def with_base(self) -> CheckpointSet:
        """The same set with its base as the first checkpoint, as coefficients have it; itself where it has none."""
        return self if self.base is None else replace(self, checkpoints=(self.base, *self.checkpoints), base=None)

    def rows_of(self, names: Sequence[str]) -> CheckpointSet:
        """The set whose checkpoints these are, in this order: itself, or with its base."""
        rows = self if len(names) == len(self.checkpoints) else self.with_base
        assert rows.names == tuple(names)
        return rows

    @property
    def reference(self) -> Checkpoint:
        return self.checkpoints[-1]

    @property
    def averaged(self) -> tuple[str, ...]:
        """The tensors of which an average may be made."""
        return tuple(name for name, info in self.tensors.items() if info.is_averaged and name not in self.taken)

    def source_of(self, name: str) -> int:
        """The index of the checkpoint that a tensor without coefficients is taken from: the reference, or another."""
        return self.names.index(self.taken[name]) if name in self.taken else len(self.checkpoints) - 1

    def has_own(self, reader: TensorReader, name: str) -> bool:
        """Whether a checkpoint has a tensor that may stand in the place of the one that is taken."""
        own = reader.tensors().get(name)
        return own is not None and own.fits(self.tensors[name])
