"""How much of this machine's memory is free."""

from __future__ import annotations

import os

import psutil

from ladle_engine.storage import control_group


def free_host_bytes() -> int:
    """This rank's share of what the machine has free, within its control groups' limits."""
    free = min([int(psutil.virtual_memory().available), *control_group.free_bytes()])
    # torchrun's variable: the ranks of this machine share its memory.
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
