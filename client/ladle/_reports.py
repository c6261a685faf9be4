"""The report of a result folder, read as something that anybody may have put there."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPORT_FILE = "report.json"
MOST_BYTES = 64 << 20
"""A report of a hundred checkpoints in a thousand groups has a few megabytes."""


class NotAResult(Exception):
    """Says why, for people."""


def read_report(folder: Path) -> tuple[Any, datetime]:
    """What `report.json` holds, and when it was written. Raises `NotAResult`, or OSError where it cannot be read.

    Nothing is followed, waited for or believed: it may hold any JSON.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise NotAResult("it is not a folder")
    try:
        descriptor = os.open(folder / REPORT_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotAResult(f"it has no {REPORT_FILE}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAResult(f"its {REPORT_FILE} is not a regular file")
        if status.st_size > MOST_BYTES:
            raise NotAResult(f"its {REPORT_FILE} has more than {MOST_BYTES >> 20} MiB")
        text = file.read(MOST_BYTES)
    try:
        return json.loads(text), datetime.fromtimestamp(status.st_mtime, tz=UTC)
    except (ValueError, RecursionError, OverflowError) as error:
        raise not_ours() from error


def not_ours() -> NotAResult:
    """For a report that is JSON at most."""
    return NotAResult(f"its {REPORT_FILE} is not one that Ladle wrote")
