"""Results on disk, found again by their reports: for when Redis has lost or forgotten the jobs that made them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ladle._reports import NotAResult, not_ours, read_report

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
        except NotAResult as error:
            pass_over(f"{_text(path)}: {error}")
        except OSError as error:
            pass_over(f"{_text(path)}: it cannot be read ({error.strerror or error})")
    return sorted(found, key=lambda result: result.written_at, reverse=True)


def _read_result(folder: Path) -> FoundResult:
    report, written_at = read_report(folder)
    try:
        return _result_of(report, folder, written_at)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # pydantic's error is a ValueError.
        raise not_ours() from error


def _result_of(report: Any, folder: Path, written_at: datetime) -> FoundResult:
    return FoundResult(
        job_id=report.get("provenance", {}).get("job_id"),
        folder=_text(folder),
        written_at=written_at,
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
