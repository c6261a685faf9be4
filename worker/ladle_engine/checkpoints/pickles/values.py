"""What a pickle makes, as records: nothing that it names is imported or called.

Dicts, lists, tuples, texts and numbers are themselves, and sets are lists. All else is one of the records here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ladle_engine.checkpoints.types import TensorInfo


class Malformed(ValueError):
    """A pickle that makes no sense, or too much of it; the text goes on from "must be a PyTorch file, but", unless
    it begins with a "must" of its own."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class, a function or a constant such as `torch.float32`, by its name."""

    name: str


@dataclass(eq=False, slots=True, repr=False)
class Inert:
    """Any other object: its class, or the function that would make it, by name, and what the file gives to it.

    It takes no time to hash, compare or print, whatever it holds.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    """What would be given to `__setstate__`: mostly a dict of attributes."""
    entries: dict[Any, Any] | None = None
    """Of a subclass of dict."""
    elements: list[Any] | None = None
    """Of a subclass of list or set."""

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def attributes(self) -> dict[Any, Any]:
        """Those of `__dict__` and `__slots__`, as far as the state tells them."""
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        dicts = [part for part in parts if isinstance(part, dict)]
        return dicts[0] if len(dicts) == 1 else {key: value for part in dicts for key, value in part.items()}

    def parts(self) -> Iterator[Any]:
        """All that it holds."""
        yield from self.arguments
        yield self.state
        yield from (self.entries or {}).values()
        yield from self.elements or ()


@dataclass(eq=False, slots=True, repr=False)
class Special(Inert):
    """A tensor, or an array, that is not dense or not in the file."""

    kind: str = ""
    """What it is, and what to do."""


class Record:
    """What a reader of plain pickles makes of an object of a class that it knows. Quick to hash, and small."""

    __slots__ = ()


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
