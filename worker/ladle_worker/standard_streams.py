"""stdout and stderr of a rank, which are its job's log: a log that cannot be written must not end the job."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Any


class _Forgiving(io.FileIO):
    """A file descriptor that drops what cannot be written, on a full disk for example."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def print_whatever_happens() -> None:
    """Also characters that have no encoding, as names of files may have."""
    for stream, descriptor in (("stdout", 1), ("stderr", 2)):
        file = _Forgiving(descriptor, "w", closefd=False)
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", write_through=True)
        setattr(sys, stream, text)
