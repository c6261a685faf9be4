"""Batches without an index, from a list or from anything that yields them: kept in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from ladle_engine.errors import DataError
from ladle_engine.progress import pulse
from ladle_engine.storage.host_memory import free_host_bytes
from ladle_engine.tasks.given.nested import size_bytes, to_memory
from ladle_engine.tasks.given.rows import count_of, gather, layout_of
from ladle_engine.tasks.given.user_code import datas_faults

MEMORY_SHARE = 0.5
"""Of what is free, at most, holds batches that are read but once."""


class KeptRows:
    """Examples that are rows of the batches."""

    is_whole_batches = False

    def __init__(self, batches: Sequence[Any], counts: Sequence[int], batch_size: int | None) -> None:
        self._batches = batches
        self._counts = counts
        self._starts = [sum(counts[:number]) for number in range(len(counts))]
        self.batch_size = batch_size or max(counts)

    def __len__(self) -> int:
        return sum(self._counts)

    def keep(self, max_bytes: int) -> None:
        return

    def fetch(self, indices: Sequence[int]) -> Any:
        numbers = [bisect_right(self._starts, index) - 1 for index in indices]
        rows = [index - self._starts[number] for index, number in zip(indices, numbers, strict=True)]
        return gather([self._batches[number] for number in numbers], rows, self._counts[numbers[0]])


class KeptBatches:
    """Examples that are the batches themselves: they have no rows, or rows that do not fit those of the others."""

    is_whole_batches = True
    batch_size = 1

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def keep(self, max_bytes: int) -> None:
        return

    def fetch(self, indices: Sequence[int]) -> Any:
        (index,) = indices
        return self._batches[index]


def keep_batches(argument: str, data: Any, batch_size: int | None) -> KeptRows | KeptBatches:
    """Raises `DataError`: out-of-memory, or invalid-data where the iteration fails."""
    batches = _read(argument, data)
    found = [count_of(batch) for batch in batches]
    counts = [count for count in found if count]
    if len(counts) == len(batches) > 0:
        layouts = {layout_of(batch, count) for batch, count in zip(batches, counts, strict=True)}
        if len(layouts) == 1:
            return KeptRows(batches, counts, batch_size)
    return KeptBatches(batches)


def _read(argument: str, data: Any) -> list[Any]:
    is_list = isinstance(data, list)
    room = int(MEMORY_SHARE * free_host_bytes())
    batches: list[Any] = []
    used = 0
    with datas_faults(argument, data, "while its batches are read"):
        for batch in data:
            # What a list holds is in memory already.
            kept = to_memory(batch, copied=not is_list)
            used += 0 if is_list else size_bytes(kept)
            if used > room:
                raise DataError(
                    "out-of-memory",
                    f"`{argument}=` must fit in half of the free memory, {room:,} bytes, because its batches cannot "
                    f"be read by index, but {len(batches) + 1} of them take {used:,}. Give fewer batches "
                    f"(`list(itertools.islice(loader, 100))`), or a data set with `__getitem__` and `__len__`.",
                )
            batches.append(kept)
            pulse()
    return batches
