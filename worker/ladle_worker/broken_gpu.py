"""Whether a GPU of this node does not work, by what ranks that ended without an outcome wrote last."""

from __future__ import annotations

import re
from collections.abc import Iterable

LAST_WORDS = re.compile(
    r"uncorrectable (ECC|NVLink) error|hardware stack error|GPU is lost|fallen off the bus|NVRM: Xid"
    r"|no CUDA-capable device is detected|CUDA-capable device\(s\) is/are busy or unavailable"
    r"|No CUDA GPUs are available|CUDA driver version is insufficient|CUDA driver initialization failed"
    r"|system not yet initialized|driver/library version mismatch|no kernel image is available|Found no NVIDIA driver",
    re.IGNORECASE,
)
"""Of CUDA and its driver. Another node may do better; the same job would meet it here again."""
LOST_EACH_OTHER = re.compile(
    r"could not finish a collective with the others|gloo/\S+\.(cc|h):\d+|ncclRemoteError|ncclSystemError"
    r"|DistBackendError"
)
"""Of ranks that another rank, or the network between them, has left alone."""


def words_of(pattern: re.Pattern[str], lines: Iterable[str]) -> str | None:
    """The last line that matches."""
    found = [line.strip() for line in lines if pattern.search(line)]
    return found[-1] if found else None
