"""Results on disk, found again by their reports: for when Redis has lost or forgotten the jobs that made them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

REPORT_FILE = "report.json"
MOST_BYTES = 64 << 20
"""A report of a hundred checkpoints in a thousand groups has a few megabytes."""

ShortText = Annotated[str, Field(min_length=1, max_length=200)]


class FoundResult(BaseModel):
    """One result folder."""

    model_config = ConfigDict(frozen=True, strict=True)

    job_id: ShortText | None
    """None if no job made it, but a program that called the engine."""
    folder: str
    written_at: datetime
    method: ShortText
    metric: ShortText
    higher_is_better: bool
    gain: FiniteFloat
    gain_low: FiniteFloat
    gain_high: FiniteFloat
    task: ShortText
    num_checkpoints: int
    num_parameters: int
    size_bytes: int
    """Of all its files."""


def find_results(folder: Path, pass_over: Callable[[str], None]) -> list[FoundResult]:
    """The result folders in `folder`, newest first. `pass_over` is told what was no result, and why.

    Raises OSError if `folder` cannot be read.
    """
    found = []
    for path in sorted(folder.absolute().iterdir()):
        # What begins with a dot is the workers' own.
        if path.name.startswith("."):
            continue
        try:
            found.append(_read_result(path))
        except _NotAResult as error:
            pass_over(f"{_text(path)}: {error}")
        except OSError as error:
            pass_over(f"{_text(path)}: it cannot be read ({error.strerror or error})")
    return sorted(found, key=lambda result: result.written_at, reverse=True)


class _NotAResult(Exception):
    """Says why, for people."""


def _read_result(folder: Path) -> FoundResult:
    if folder.is_symlink() or not folder.is_dir():
        raise _NotAResult("it is not a folder")
    try:
        # Anybody may have put it there: nothing is followed, waited for or believed.
        descriptor = os.open(folder / REPORT_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _NotAResult(f"it has no {REPORT_FILE}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _NotAResult(f"its {REPORT_FILE} is not a regular file")
        if status.st_size > MOST_BYTES:
            raise _NotAResult(f"its {REPORT_FILE} has more than {MOST_BYTES >> 20} MiB")
        text = file.read(MOST_BYTES)
    try:
        return _result_of(json.loads(text), folder, status.st_mtime)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        # pydantic's error is a ValueError, and so are that of JSON and that of its encoding.
        raise _NotAResult(f"its {REPORT_FILE} is not one that Ladle wrote") from error


def _result_of(report: Any, folder: Path, written_s: float) -> FoundResult:
    return FoundResult(
        job_id=report.get("provenance", {}).get("job_id"),
        folder=_text(folder),
        written_at=datetime.fromtimestamp(written_s, tz=UTC),
        method=report["winner"],
        metric=report["metric"]["name"],
        higher_is_better=report["metric"]["higher_is_better"],
        gain=report["gain"]["value"],
        gain_low=report["gain"]["low"],
        gain_high=report["gain"]["high"],
        task=report["task"],
        num_checkpoints=len(report["checkpoints"]),
        num_parameters=report["num_parameters"],
        size_bytes=sum(_sizes(folder)),
    )


def _sizes(folder: Path) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            yield Path(where, name).lstat().st_size


def _text(path: Path) -> str:
    """A name that is not UTF-8 has no text of its own."""
    return os.fsencode(path).decode(errors="backslashreplace")
