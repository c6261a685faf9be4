"""Faults of the machine: the same work may succeed at another time or place, so no task and no input is to blame."""

from __future__ import annotations

import re

from ladle_engine.distributed.collectives import is_lost_rank
from ladle_engine.distributed.out_of_memory import is_out_of_memory
from ladle_engine.storage.atomic_folder import FULL_DISK, STORAGE_FAULTS, LostFolder

BROKEN_GPU = re.compile(
    r"uncorrectable (ECC|NVLink) error|hardware stack error|GPU is lost|fallen off the bus|NVRM: Xid"
    r"|no CUDA-capable device is detected|CUDA-capable device\(s\) is/are busy or unavailable"
    r"|No CUDA GPUs are available|CUDA driver version is insufficient|CUDA driver initialization failed"
    r"|system not yet initialized|driver/library version mismatch|no kernel image is available|Found no NVIDIA driver",
    re.IGNORECASE,
)
"""torch has no class of its own for these."""


def is_machine_fault(error: BaseException) -> bool:
    """Memory, a full or failing disk, a lost rank, a broken GPU."""
    if isinstance(error, LostFolder) or (isinstance(error, OSError) and error.errno in (*FULL_DISK, *STORAGE_FAULTS)):
        return True
    if is_out_of_memory(error) or is_lost_rank(error):
        return True
    return isinstance(error, RuntimeError) and BROKEN_GPU.search(str(error)) is not None


def comes_of_a_machine(error: BaseException) -> bool:
    """Whether a disk or a network that may answer later is behind an error. A full disk stays full."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return any(isinstance(cause, OSError) and cause.errno in STORAGE_FAULTS for cause in causes)
