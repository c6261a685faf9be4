"""What each stage of a job took: seconds on rank 0, and the bytes that all ranks read and wrote."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.progress import STAGES
from ladle_engine.storage.input_file import COUNTS


@dataclass(kw_only=True)
class _Taken:
    seconds: float = 0.0
    read: int = 0
    written: int = 0


class StageClock:
    """A stage lasts until the next one begins. One that begins several times is added up.

    Bytes are those that were asked for, also where the page cache had them. What a thread reads ahead counts in the
    stage in which it is read.
    """

    def __init__(self) -> None:
        self._taken: dict[str, _Taken] = {}
        self._stage: str | None = None
        self._since = time.monotonic()
        self._read, self._written = COUNTS.all_read, COUNTS.all_written

    def enter(self, stage: str) -> None:
        """The stage before ends."""
        self._count()
        self._stage = stage
        self._taken.setdefault(stage, _Taken())

    def add_over_ranks(self, collectives: Collectives) -> None:
        """Collective, before rank 0 writes: from here on it has the bytes of the others too."""
        self._count()
        own = [self._taken.get(stage, _Taken()) for stage in STAGES]
        # float64 is exact up to 9 PB.
        table = torch.tensor([[each.read, each.written] for each in own], dtype=torch.float64)
        for stage, (read, written) in zip(STAGES, collectives.all_reduce(table).tolist(), strict=True):
            if stage in self._taken:
                self._taken[stage].read, self._taken[stage].written = int(read), int(written)

    def to_json(self) -> list[dict[str, Any]]:
        """For the report: one entry per stage, in the order in which they first began."""
        self._count()
        return [
            {
                "stage": stage,
                "seconds": round(taken.seconds, 3),
                "bytes_read": taken.read,
                "bytes_written": taken.written,
            }
            for stage, taken in self._taken.items()
        ]

    def _count(self) -> None:
        now, read, written = time.monotonic(), COUNTS.all_read, COUNTS.all_written
        if self._stage is not None:
            taken = self._taken[self._stage]
            taken.seconds += now - self._since
            taken.read += read - self._read
            taken.written += written - self._written
            self._since, self._read, self._written = now, read, written
