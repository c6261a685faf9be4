"""How much memory is free, and how much a step takes."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from ladle_engine.directions.formats import ROW_PRECISIONS
from ladle_engine.directions.rows import make_rows
from ladle_engine.distributed.out_of_memory import is_out_of_memory
from ladle_engine.storage.host_memory import free_host_bytes


def supported(precision: str, device: torch.device) -> bool:
    """Whether the device can pack and unpack this precision; tried on a few numbers."""
    if precision not in ROW_PRECISIONS:
        return True
    try:
        rows = make_rows(precision, 1, 64, device)
        rows.fill(0, torch.ones(1, 64))
        rows.project(torch.ones(64, device=device))
    except Exception as error:  # whatever a device's library raises
        if is_out_of_memory(error):
            raise
        return False
    return True


def available_bytes(device: torch.device) -> int:
    """What the device, or this rank's share of the machine, has free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps what it has freed, and gives it out again.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return free_host_bytes()


class PeakMemory:
    """How much more memory this process held at its peak inside the block than before, in bytes; 0 if unknown."""

    bytes: int = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._resettable = _reset_peak()
            self._before = psutil.Process().memory_info().rss
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        elif self._resettable:
            self.bytes = max(_peak_rss() - self._before, 0)


def _reset_peak() -> bool:
    """Linux: the high-water mark of the resident set begins anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_rss() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
