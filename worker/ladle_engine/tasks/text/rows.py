"""Rows of token ids: prepared when they are asked for, kept while there is room, and put together as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from ladle_engine.progress import pulse
from ladle_engine.tasks.text.padding import lengths_of, mask_of, padded

Row = Mapping[str, np.ndarray[tuple[int], np.dtype[np.int32]]]
"""Name of a tensor -> one whole number for each token. `input_ids` are always there."""
CHUNK = 1000
"""Rows that are looked at in one go."""
OBJECT_BYTES = 300
"""Of a row beside its numbers."""


class PreparedRows:
    """What a row holds does not depend on what is kept."""

    def __init__(self, prepare: Callable[[Sequence[int]], Sequence[Row]]) -> None:
        """`prepare` makes the rows of these indices."""
        self._prepare = prepare
        self._kept: dict[int, Row] = {}
        self._room_bytes = 0

    def keep(self, max_bytes: int) -> None:
        self._room_bytes = max_bytes

    def rows(self, indices: Sequence[int]) -> list[Row]:
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        made = dict(zip(missing, self._prepare(missing), strict=True)) if missing else {}
        for index, row in made.items():
            size = sum(each.nbytes for each in row.values()) + OBJECT_BYTES
            if size <= self._room_bytes:
                self._room_bytes -= size
                self._kept[index] = row
        return [made[index] if index in made else self._kept[index] for index in indices]


def chunks(count: int) -> Iterator[range]:
    """All indices, some at a time. The job is seen to go on."""
    for start in range(0, count, CHUNK):
        yield range(start, min(start + CHUNK, count))
        pulse()


def as_batch(
    rows: Sequence[Row], paddings: Mapping[str, int], *, left: bool = False, width: int = 1
) -> dict[str, Tensor]:
    """int64 [B, L] by name, with an `attention_mask` that is 1 where a row has a token. `paddings` has every name; L is
    at least `width`.
    """
    batch = {
        name: padded([row[name] for row in rows], value, left=left, width=width) for name, value in paddings.items()
    }
    lengths = lengths_of([row["input_ids"] for row in rows])
    return {**batch, "attention_mask": mask_of(lengths, batch["input_ids"].shape[1], left=left)}
