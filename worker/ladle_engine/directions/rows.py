"""Makes rows of any precision."""

from __future__ import annotations

import torch

from ladle_engine.directions.formats import OFFLOAD, Rows
from ladle_engine.directions.offloaded_rows import OffloadedRows
from ladle_engine.directions.resident_rows import ResidentRows


def make_rows(precision: str, count: int, length: int, device: torch.device) -> Rows:
    """`count` rows of `length` zeros, to be filled. `precision` is one of ROW_PRECISIONS, alone or after `offload:`."""
    if precision.startswith(OFFLOAD):
        return OffloadedRows(precision.removeprefix(OFFLOAD), count, length, device)
    return ResidentRows.allocate(precision, count, length, device)
