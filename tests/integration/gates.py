"""Points at which a process of a job stops until the test lets it go on: files in `gates/<name of the output>`, for a
job that has such a folder, or in `gates`. A worker that is held imports no torch for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

DEADLINE_S = 240


def gates_of(gates: Path, output: str | None) -> Path:
    own = gates / (output or "")
    return own if own.is_dir() else gates


def hold(gates: Path, name: str) -> None:
    """Stops where the test put a file `<name>.hold`, until there is `<name>.open`."""
    if not (gates / f"{name}.hold").exists():
        return
    (gates / f"{name}.reached").write_text(str(os.getpid()))
    deadline = time.monotonic() + DEADLINE_S
    while not (gates / f"{name}.open").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def fail(gates: Path, name: str) -> None:
    """As a disk fails, where the test put the number of the error into `<name>.errno`."""
    number = gates / f"{name}.errno"
    if number.exists():
        raise OSError(int(number.read_text()), os.strerror(int(number.read_text())))
