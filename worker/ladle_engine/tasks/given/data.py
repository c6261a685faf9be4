"""Data that were given in Python: what the engine asks of them, whatever they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from ladle_engine.errors import DataError
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.given.batches import keep_batches
from ladle_engine.tasks.given.indexed import IndexedExamples, keys_of
from ladle_engine.tasks.given.nested import digests
from ladle_engine.tasks.given.user_code import datas_faults

SAMPLES = 32
"""Examples, evenly spread, by which data are told from others."""
READ_TWICE = 4
DEFAULT_BATCH_SIZE = 128


class Given(Protocol):
    """Examples by index, in batches of the user's own kind."""

    is_whole_batches: bool
    """Whether an example of the engine's is a whole batch of the user's, because it has no rows to take."""
    batch_size: int

    def __len__(self) -> int: ...

    def fetch(self, indices: Sequence[int]) -> Any:
        """The user's batch of the examples at `indices`, on the CPU; of one index where they are whole batches."""
        ...

    def keep(self, max_bytes: int) -> None:
        """See `KeepsExamples`."""
        ...


class GivenSet:
    """A `DataSet` whose batches say which examples they are, and no more: the user's own batch may hold anything, and
    is made when a function of the user's is called."""

    def __init__(self, name: str, given: Given) -> None:
        """`name` is how messages call it."""
        self.name = name
        self.given = given
        self.remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.given)

    def batch(self, indices: Tensor) -> Batch:
        # By the name of its own, batches of several sets are never taken for one.
        return {self.name: indices}

    def keep(self, max_bytes: int) -> None:
        self.given.keep(max_bytes)


def refuse_other_kinds(argument: str, data: Any) -> None:
    """Raises `ValueError` for what holds no batches, before anything is read."""
    if isinstance(data, (DataLoader, list)) or _is_indexed(data) or _is_iterable(data):
        return
    hints: tuple[tuple[type, str], ...] = (
        (tuple, "A single batch is `[batch]`, and arrays are `torch.utils.data.TensorDataset(x, y)`."),
        (Tensor, "Arrays are `torch.utils.data.TensorDataset(x, y)`."),
        (IterableDataset, "It yields examples: `DataLoader(dataset, batch_size=32)` makes batches of them."),
    )
    hint = next((text for kind, text in hints if isinstance(data, kind)), "Files are given as `val_set`.")
    raise ValueError(
        f"`{argument}` must be a DataLoader, a data set with `__getitem__` and `__len__`, or a list of batches, but is "
        f"of type {type(data).__name__}. {hint}"
    )


def open_given(argument: str, data: Any, batch_size: int | None) -> Given:
    """Raises `DataError`: empty-data; invalid-data where its own code fails; out-of-memory where batches that have no
    index do not fit."""
    given = _opened(argument, data, batch_size)
    if len(given) == 0:
        raise DataError("empty-data", f"`{argument}=` must hold examples, but is empty.")
    return given


def _opened(argument: str, data: Any, batch_size: int | None) -> Given:
    if isinstance(data, DataLoader) and _is_by_index(data):
        keys, own_size = keys_of(argument, data)
        return IndexedExamples(
            argument=argument,
            dataset=data.dataset,
            keys=keys,
            collate=data.collate_fn,
            batch_size=batch_size or own_size or DEFAULT_BATCH_SIZE,
            loader=data if data.num_workers > 0 else None,
        )
    if not isinstance(data, (DataLoader, list)) and _is_indexed(data):
        with datas_faults(argument, data, "in `__len__`"):
            keys = range(len(data))
        return IndexedExamples(
            argument=argument,
            dataset=data,
            keys=keys,
            collate=default_collate,
            batch_size=batch_size or DEFAULT_BATCH_SIZE,
            loader=None,
        )
    return keep_batches(argument, data, batch_size)


def _is_by_index(loader: DataLoader[Any]) -> bool:
    """Whether its batches are those of the data set's examples, put together by its `collate_fn`; not those of a
    subclass that makes something else of them."""
    own = type(loader).__iter__ is DataLoader.__iter__
    return own and loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _is_indexed(data: Any) -> bool:
    if isinstance(data, (IterableDataset, tuple, dict, str, bytes, Tensor)) or hasattr(data, "__array__"):
        return False
    return hasattr(type(data), "__getitem__") and hasattr(type(data), "__len__")


def _is_iterable(data: Any) -> bool:
    kinds = (IterableDataset, tuple, dict, str, bytes, Tensor)
    return isinstance(data, Iterable) and not isinstance(data, kinds) and not hasattr(data, "__array__")


def spread(count: int, most: int) -> list[int]:
    """So many indices at most, evenly over all: data often come sorted by class."""
    return sorted(set(torch.linspace(0, count - 1, min(count, most)).round().to(torch.int64).tolist()))


def digest_of(given: Given) -> str:
    """Of some examples, and of how many there are."""
    found: list[Any] = [len(given), given.is_whole_batches]
    for index in spread(len(given), SAMPLES):
        found.append([index, *digests(given.fetch([index])).items()])
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def changing_part(given: Given) -> str | None:
    """Which part of which example is not the same the second time, if one is: random augmentation, say."""
    for index in spread(len(given), READ_TWICE):
        one, other = digests(given.fetch([index])), digests(given.fetch([index]))
        changing = next((place for place in one if one[place] != other.get(place)), None)
        if changing is not None:
            return f"`batch{changing}` of example {index}"
    return None
