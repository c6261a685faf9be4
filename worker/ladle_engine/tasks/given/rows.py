"""Examples out of whole batches that are kept in memory: rows, where every part of every batch has one per example."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle_engine.tasks.given.nested import leaves


@dataclass(frozen=True)
class _Rows:
    """A part of a batch that has one row per example; `kind` is what must agree between batches."""

    kind: Hashable


def count_of(batch: Any) -> int | None:
    """How many examples a batch holds: the first dimension, if all its tensors have the same. None where they have not,
    or where there are no tensors."""
    counts = {len(leaf) if leaf.ndim else None for _, leaf in leaves(batch) if isinstance(leaf, (Tensor, np.ndarray))}
    return counts.pop() if len(counts) == 1 else None


def layout_of(batch: Any, count: int) -> Hashable:
    """Equal for batches of which rows can be put together."""
    if isinstance(batch, Tensor):
        return _Rows((batch.dtype, batch.shape[1:], batch.layout))
    if isinstance(batch, np.ndarray):
        return _Rows((batch.dtype.str, batch.shape[1:]))
    if _is_list_of_rows(batch, count):
        return _Rows(type(batch).__name__)
    if isinstance(batch, Mapping):
        return type(batch), tuple((key, layout_of(each, count)) for key, each in batch.items())
    if isinstance(batch, (list, tuple)):
        return type(batch), tuple(layout_of(each, count) for each in batch)
    # What is not per example must be the same in all batches.
    return batch if batch is None or isinstance(batch, (bool, int, float, str, bytes)) else id(batch)


def _is_list_of_rows(value: Any, count: int) -> bool:
    """Texts, say, or token numbers that no tensor holds."""
    if type(value) not in (list, tuple) or len(value) != count:
        return False
    return not any(isinstance(leaf, (Tensor, np.ndarray)) for _, leaf in leaves(value))


def gather(parts: Sequence[Any], rows: Sequence[int], count: int) -> Any:
    """A batch of the row `rows[i]` of the batch `parts[i]`, for each i. All have the same layout; the first of them
    holds `count` examples."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack([part[row] for part, row in zip(parts, rows, strict=True)])
    if isinstance(first, np.ndarray):
        return np.stack([part[row] for part, row in zip(parts, rows, strict=True)])
    if _is_list_of_rows(first, count):
        return type(first)(part[row] for part, row in zip(parts, rows, strict=True))
    if isinstance(first, Mapping):
        return _like(first, {key: gather([part[key] for part in parts], rows, count) for key in first})
    if isinstance(first, (list, tuple)):
        made = [gather([part[i] for part in parts], rows, count) for i in range(len(first))]
        return type(first)(*made) if hasattr(first, "_fields") else type(first)(made)
    return first


def _like(mapping: Mapping[Any, Any], content: dict[Any, Any]) -> Any:
    kind: Any = type(mapping)
    try:
        return kind(content)
    except TypeError:
        return content


def size_of(batch: Any) -> int:
    """How many examples a batch has, as far as it says so: the first dimension of its first tensor."""
    sizes = [len(leaf) for _, leaf in leaves(batch) if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim]
    if sizes:
        return sizes[0]
    return len(batch) if isinstance(batch, list) else 1
