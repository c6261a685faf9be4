"""Makes rows of any precision."""

from __future__ import annotations

import torch

from ladle_engine.directions.formats import OFFLOAD, Rows
from ladle_engine.directions.offloaded_rows import OffloadedRows
from ladle_engine.directions.resident_rows import ResidentRows


def make_rows(tier: str, count: int, length: int, device: torch.device) -> Rows:
    """`count` rows of `length` zeros, to be filled. `tier` is one of TIERS, or `offload:` and one of TIERS."""
    if tier.startswith(OFFLOAD):
        return OffloadedRows(tier.removeprefix(OFFLOAD), count, length, device)
    return ResidentRows.allocate(tier, count, length, device)
