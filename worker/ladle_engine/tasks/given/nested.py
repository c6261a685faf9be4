"""Batches as users have them: tensors in tuples, mappings and objects of other libraries, with texts between them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Leaf = Tensor | np.ndarray[Any, Any]
SHOWN_CHARS = 200


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same structure, with `function` of everything that is no container."""
    if isinstance(value, MutableMapping):
        # Mappings of other libraries, such as transformers' BatchEncoding, keep their type and what else they hold.
        made: Any = copy.copy(value)
        made.update({key: mapped(function, each) for key, each in value.items()})
        return made
    if isinstance(value, Mapping):
        return {key: mapped(function, each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields") and not hasattr(value, "to"):
        return type(value)(*(mapped(function, each) for each in value))
    if type(value) in (list, tuple):
        return type(value)(mapped(function, each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "to"):
        made = copy.copy(value)
        for each in dataclasses.fields(value):
            object.__setattr__(made, each.name, mapped(function, getattr(value, each.name)))
        return made
    return function(value)


def to_device(batch: Any, device: torch.device) -> Any:
    """Everything in it that can be there; also what has a `to` of its own, such as a graph."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        return value.to(device) if _is_movable(value) else value

    return mapped(moved, batch)


def to_memory(batch: Any, *, copied: bool) -> Any:
    """On the CPU. A copy where a loader may use the memory again, as those do that share it with workers."""
    cpu = torch.device("cpu")

    def kept(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().to(cpu, copy=copied)
        if isinstance(value, np.ndarray):
            return value.copy() if copied else value
        return value.to(cpu) if _is_movable(value) else value

    return mapped(kept, batch)


def _is_movable(value: Any) -> bool:
    return callable(getattr(value, "to", None)) and not isinstance(value, (type, np.ndarray))


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What it holds, each with its place: `[0]`, `['labels']`."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(each, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from leaves(each, f"{place}[{number}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{place}.{field.name}")
    else:
        yield place, value


def size_bytes(value: Any) -> int:
    """Roughly, of the memory that it takes."""
    return sum(_leaf_bytes(each) for _, each in leaves(value))


def _leaf_bytes(leaf: Any) -> int:
    if isinstance(leaf, (Tensor, np.ndarray)):
        return int(leaf.nbytes) + 100
    if isinstance(leaf, (str, bytes, bytearray)):
        return len(leaf) + 60
    size = getattr(leaf, "size", None)
    if isinstance(size, tuple) and len(size) == 2 and hasattr(leaf, "getbands"):
        return int(size[0] * size[1] * len(leaf.getbands())) + 500
    return 60


def digests(value: Any) -> dict[str, str]:
    """Place -> what stands there, in a few letters. Of what is no array, number or text, only the type."""
    return {place: _leaf_digest(leaf) for place, leaf in leaves(value)}


def _leaf_digest(leaf: Any) -> str:
    if isinstance(leaf, Tensor) and leaf.layout is torch.strided and not leaf.is_quantized:
        plain = leaf.detach().cpu().contiguous().reshape(-1)
        content, kind = plain.view(torch.uint8).numpy().tobytes(), f"{leaf.dtype} {tuple(leaf.shape)}"
    elif hasattr(leaf, "__array_interface__"):
        array = np.asarray(leaf)
        if array.dtype.hasobject:
            return _type(leaf)
        content, kind = array.tobytes(), f"{array.dtype} {array.shape}"
    elif leaf is None or isinstance(leaf, (bool, int, float, str, bytes)):
        return f"{type(leaf).__name__} {hashlib.sha256(repr(leaf).encode(errors='replace')).hexdigest()[:16]}"
    else:
        return _type(leaf)
    return f"{kind} {hashlib.sha256(content).hexdigest()[:16]}"


def _type(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def shown(batch: Any) -> str:
    """The batch in a few words: `(float32 [8, 3, 32, 32], int64 [8])`."""
    return _shown(batch)[:SHOWN_CHARS]


def _shown(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}: {_shown(each)}" for key, each in value.items())
        return f"{{{inside}}}"
    if isinstance(value, (list, tuple)):
        if not any(isinstance(leaf, (Tensor, np.ndarray)) for _, leaf in leaves(value)):
            return f"{type(value).__name__} of {len(value)}"
        inside = ", ".join(_shown(each) for each in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return "None" if value is None else type(value).__name__
