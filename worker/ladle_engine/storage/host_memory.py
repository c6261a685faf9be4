"""How much of this machine's memory is free."""

from __future__ import annotations

import os

import psutil

from ladle_engine.storage import control_group

SHARE_VARIABLE = "LADLE_HOST_BYTES"
"""What all ranks here may take together, where the machine is divided."""


def free_host_bytes() -> int:
    """This rank's share of what the machine has free, within its control groups' limits and its part of the machine."""
    free = min([int(psutil.virtual_memory().available), *control_group.free_bytes()])
    # torchrun's variable: the ranks of this machine share its memory.
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = os.environ.get(SHARE_VARIABLE)
    if share is None:
        return free // ranks
    return min(free // ranks, max(int(share) // ranks - _own_bytes(), 0))


def _own_bytes() -> int:
    """What this rank holds already. Files in memory give way, so they do not count."""
    held = psutil.Process().memory_info()
    return int(held.rss) - int(getattr(held, "shared", 0))
