"""Which collectives a rank was in when one of them failed: torch's flight recorder, beside the log and in it.

torch records the last 2,000 of them (`TORCH_FR_BUFFER_SIZE`). NCCL's watchdog writes them itself, because it ends the
process; after an error of gloo the rank does. `torchfrtrace`, which comes with torch, reads the files.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from torch._C import _distributed_c10d as recorder

PREFIX = "flight-recorder-"
LAST = 5


def prepare(folder: Path) -> None:
    """Before the process group opens: a time-out leaves `flight-recorder-<rank>` in the attempt's folder."""
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(folder / PREFIX))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


def is_timeout(error: BaseException) -> bool:
    """Whether a collective took too long. Where a rank has died, its own log says more."""
    return any("timed out" in str(each).lower() for each in (error, error.__cause__) if each is not None)


def tell(folder: Path) -> None:
    """After a collective has failed: the same file, and its last entries in the log."""
    # Whatever goes wrong here, the error that led to it matters more.
    with suppress(OSError, RuntimeError, ValueError, KeyError):
        rank = dist.get_rank()
        (folder / f"{PREFIX}{rank}").write_bytes(recorder._dump_fr_trace())  # type: ignore[attr-defined]
        trace = recorder._dump_fr_trace_json()  # type: ignore[attr-defined]
        for line in last_collectives(trace):
            print(f"[rank {rank}] {line}", file=sys.stderr)


def last_collectives(trace: bytes) -> list[str]:
    """The last ones that this rank began, of the recorder's JSON."""
    entries = json.loads(trace).get("entries", [])[-LAST:]
    lines = [
        f"{entry['collective_seq_id']}: {entry['profiling_name']} of {entry['input_sizes']} {entry['state']}"
        for entry in entries
    ]
    return ["The last collectives that this rank began, of which the others should have the same:", *lines]
