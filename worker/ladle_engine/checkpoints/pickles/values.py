"""What a pickle makes, as records: nothing that it names is imported or called.

Dicts, lists, tuples, texts and numbers are themselves. All else is one of the records here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ladle_engine.checkpoints.types import TensorInfo


class Malformed(ValueError):
    """A pickle that makes no sense, or too much of it; the text goes on from "must be a PyTorch file, but", unless
    it begins with a "must" of its own."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class, a function or a constant such as `torch.float32`, by its name."""

    name: str


class Inert:
    """Stands for what is no tensor and holds none, such as a number of numpy's."""


@dataclass(frozen=True, eq=False, slots=True)
class Special:
    """Stands for a tensor, or an array, that is not dense or not in the file."""

    kind: str
    """What it is, and what to do."""


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Numbers in the file, of which tensors are views."""

    key: str
    dtype_name: str
    itemsize: int
    count: int
    start: int = 0
    """Of a part of a storage: its first number."""
    kind: ClassVar[str] = "a TypedStorage. Save it as a torch tensor"

    @property
    def num_bytes(self) -> int:
        return self.count * self.itemsize


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor:
    """A dense tensor, whose numbers are in the file."""

    info: TensorInfo
    storage: Storage
    offset: int
    """Of its first number, in numbers of its type, from the storage's first."""
    stride: tuple[int, ...]
    is_negated: bool = False
    is_conjugated: bool = False

    @property
    def num_bytes(self) -> int:
        """Of all its numbers, repeated ones too."""
        return self.info.numel * self.info.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        step = 1
        for side, stride in zip(reversed(self.info.shape), reversed(self.stride), strict=True):
            if side != 1 and stride != step:
                return not self.info.numel
            step *= side
        return True
