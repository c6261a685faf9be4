"""Examples of a data set with `__getitem__`, put together as its DataLoader does."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from ladle_engine.tasks.given.nested import mapped, size_bytes
from ladle_engine.tasks.given.user_code import datas_faults

_NOT_ARRAYS = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
"""Types that numpy has not."""


class IndexedExamples:
    """In the engine's own order; samples are kept as long as there is room for them."""

    is_whole_batches = False

    def __init__(
        self,
        *,
        argument: str,
        dataset: Any,
        keys: Sequence[Any],
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        loader: DataLoader[Any] | None,
    ) -> None:
        """`keys` are those of the data set that are used; the workers are those of `loader`."""
        self.batch_size = batch_size
        self._argument = argument
        self._dataset = dataset
        self._keys = keys
        self._collate = collate
        self._workers = Workers(loader) if loader is not None else None
        self._kept: dict[int, Any] = {}
        self._room = 0

    def __len__(self) -> int:
        return len(self._keys)

    def keep(self, max_bytes: int) -> None:
        self._room = max_bytes

    def fetch(self, indices: Sequence[int]) -> Any:
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        read = dict(zip(missing, self._read(missing), strict=True)) if missing else {}
        # A collate function may change what it is given, and gets a copy of it.
        samples = [_copied(read[index] if index in read else self._kept[index]) for index in indices]
        for index, sample in read.items():
            self._keep(index, sample)
        with datas_faults(self._argument, self._collate, f"in `{_name(self._collate)}`"):
            return self._collate(samples)

    def _read(self, indices: Sequence[int]) -> list[Any]:
        keys = [self._keys[index] for index in indices]
        with datas_faults(self._argument, self._dataset, f"at {_some(keys)}"):
            # Starting a task for one or two examples costs more than reading them here.
            if self._workers is not None and len(keys) > 2:
                return self._workers.samples(keys)
            return samples_of(self._dataset, keys)

    def _keep(self, index: int, sample: Any) -> None:
        if self._room > 0:
            size = size_bytes(sample)
            if size <= self._room:
                self._kept[index] = sample
                self._room -= size


def samples_of(dataset: Any, keys: Sequence[Any]) -> list[Any]:
    """As torch's own loader asks for them."""
    several = getattr(dataset, "__getitems__", None)
    return list(several(list(keys))) if several else [dataset[key] for key in keys]


class Workers:
    """The processes of a DataLoader, which here read the samples of one batch together."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._count = loader.num_workers
        self._parts = _Parts()
        self._loader: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=self._parts,
            collate_fn=_packed,
            num_workers=loader.num_workers,
            persistent_workers=True,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=loader.timeout,
            # Not the process' own, which is the user's.
            generator=torch.Generator().manual_seed(0),
        )

    def samples(self, keys: list[Any]) -> list[Any]:
        size = -(-len(keys) // self._count)
        self._parts.now = [keys[start : start + size] for start in range(0, len(keys), size)]
        return list(itertools.chain.from_iterable(_unpacked(packed) for packed in self._loader))


class _Parts:
    """A batch sampler: the keys that each worker reads next."""

    def __init__(self) -> None:
        self.now: list[list[Any]] = []

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


class _Array:
    """A tensor on its way between processes: pickled as an array, which is several times as quick."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values


def _packed(samples: list[Any]) -> Tensor:
    """In one tensor: each one that crosses between processes takes a file descriptor."""
    packed = pickle.dumps(mapped(_as_array, samples), protocol=pickle.HIGHEST_PROTOCOL)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> list[Any]:
    samples: list[Any] = pickle.loads(packed.numpy().data)  # noqa: S301  # by a process of our own
    return [mapped(_as_tensor, sample) for sample in samples]


def _as_array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.layout is torch.strided and value.dtype not in _NOT_ARRAYS and not value.is_quantized:
        return _Array(value.detach().cpu().numpy())
    # A row of a large tensor would bring all of it along.
    return value.detach().clone()


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(value.values) if isinstance(value, _Array) else value


def keys_of(argument: str, loader: DataLoader[Any]) -> tuple[Sequence[Any], int | None]:
    """Which examples of its data set a loader uses, and its batch size. All of them, whatever their order, where its
    sampler leaves none out on purpose.

    Raises `DataError` (invalid-data) for a data set without a length, or a sampler that fails.
    """
    batch_sampler: Any = loader.batch_sampler
    size = loader.batch_size or getattr(batch_sampler, "batch_size", None)
    sampler: Any = batch_sampler.sampler if type(batch_sampler) is BatchSampler else None
    with datas_faults(argument, loader.dataset, "in `__len__`"):
        total = len(loader.dataset)  # type: ignore[arg-type]  # whatever it is, it says so
    if isinstance(sampler, (SequentialSampler, DistributedSampler)):
        return range(total), size
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == total:
        return range(total), size
    if isinstance(sampler, SubsetRandomSampler):
        return [int(index) for index in sampler.indices], size
    with datas_faults(argument, sampler or batch_sampler, "in its sampler"):
        keys = _all_of(sampler, total) if sampler is not None else _all_in(batch_sampler)
    return keys, size


def _all_of(sampler: Any, total: int) -> list[Any]:
    """Each one once, in order: one that weighs examples gives some several times, in an order of its own."""
    try:
        most = len(sampler)
    except TypeError:
        most = total
    return _sorted(itertools.islice(sampler, most))


def _all_in(batch_sampler: Any) -> list[Any]:
    try:
        batches = itertools.islice(batch_sampler, len(batch_sampler))
    except TypeError:
        batches = iter(batch_sampler)
    return _sorted(key for batch in batches for key in batch)


def _sorted(keys: Any) -> list[Any]:
    found = list(dict.fromkeys(key.item() if isinstance(key, Tensor) else key for key in keys))
    try:
        return sorted(found)
    except TypeError:
        return found


def _copied(sample: Any) -> Any:
    return copy.copy(sample) if isinstance(sample, (dict, list)) else sample


def _some(keys: Sequence[Any]) -> str:
    return f"example {keys[0]!r}" if len(keys) == 1 else f"{len(keys)} examples from {keys[0]!r} to {keys[-1]!r}"


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
