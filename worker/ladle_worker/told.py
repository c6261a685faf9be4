"""What a process of an attempt tells its agent while it works: events, and a pulse."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ladle_engine.progress import ProgressEvent
from ladle_worker.convert import event_body
from ladle_worker.disk_faults import naming_disk_faults

PULSE_S = 1.0


def beating(path: Path) -> Callable[[], None]:
    """Says in a file's time that work goes on, once a second at most."""
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        if time.monotonic() - last >= PULSE_S:
            last = time.monotonic()
            # The disk may fail for a moment; whoever must write to it will say so.
            with suppress(OSError):
                os.utime(path)

    return beat


class Events:
    """The file of events, without a buffer: each line is there, or its error is."""

    def __init__(self, path: Path) -> None:
        with naming_disk_faults("write the job's events"):
            self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self._file.close()

    def add(self, event: ProgressEvent) -> None:
        rest = event_body(event).model_dump_json().encode() + b"\n"
        with naming_disk_faults("write the job's events"):
            while rest:
                rest = rest[self._file.write(rest) :]
