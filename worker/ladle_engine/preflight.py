"""Adds up memory before the job starts, and picks how the directions are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ladle_engine.binding import Binding
from ladle_engine.collectives import Collectives
from ladle_engine.errors import EngineError

USABLE_SHARE = 0.7
"""Of the memory that is free; the rest is for activations, the data and the page cache."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What the directions take, and where they go."""

    storage: str
    """`float32`, `bfloat16` or `streamed`."""
    needed_bytes: int
    available_bytes: int
    reason: str


def plan_memory(binding: Binding, num_checkpoints: int, device: torch.device, collectives: Collectives) -> MemoryPlan:
    """Collective: float32 where it fits on every rank, else bfloat16, else streamed from the files.

    Low-precision directions cost search accuracy only: the result is always recomputed from the original files.
    Raises `EngineError` (out-of-memory) with the numbers when not even the model and one gradient fit.
    """
    available = _smallest(available_bytes(device), collectives)
    numbers = binding.num_parameters
    largest = max((parameter.numel() for parameter in binding.parameters.values()), default=0)
    # Centre and the largest gradient, float32; the model itself is in memory already.
    base = 4 * (numbers + largest)
    if base > available:
        raise EngineError(
            "out-of-memory",
            f"Training coefficients of {numbers:,} parameters must have {base:,} bytes of memory on {device}, but "
            f"{available:,} are free.",
        )
    for storage, width in (("float32", 4), ("bfloat16", 2)):
        needed = base + width * num_checkpoints * numbers
        if needed <= USABLE_SHARE * available:
            return MemoryPlan(
                storage=storage,
                needed_bytes=needed,
                available_bytes=available,
                reason=f"{num_checkpoints} directions of {numbers:,} parameters take {needed:,} bytes as {storage}; "
                f"{available:,} are free",
            )
    return MemoryPlan(
        storage="streamed",
        needed_bytes=base,
        available_bytes=available,
        reason=f"{num_checkpoints} directions of {numbers:,} parameters do not fit in {available:,} bytes even as "
        f"bfloat16, so they are read from the files at every step",
    )


def available_bytes(device: torch.device) -> int:
    """What the device, or this machine within its control group's limit, has free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free_bytes = [int(psutil.virtual_memory().available)]
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"))
    used = _read_number(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None:
        free_bytes.append(max(limit - used, 0))
    # torchrun's variable: the ranks of this machine share its memory, while each has a GPU of its own.
    return min(free_bytes) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _smallest(own: int, collectives: Collectives) -> int:
    """The smallest number over the ranks: with directions of different precision their models would drift apart."""
    numbers = torch.zeros(collectives.size, dtype=torch.float64)
    numbers[collectives.rank] = own
    return int(collectives.sum(numbers).min())


def _read_number(path: Path) -> int | None:
    """The number in a control group's file; None without a control group or with the limit `max`."""
    if not path.exists():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None
