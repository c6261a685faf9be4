"""The curve of averages that are made while a training goes on: one JSON line for each average, in `curve.jsonl`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ladle._reports import NotAResult, read_report
from ladle_contracts import JobResult
from ladle_contracts.safe_text import one_line

CURVE_FILE = "curve.jsonl"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One average, beside the checkpoints that it was made of. All values are of the metric on the select split."""

    step: int | float | None
    """Of the last checkpoint; its epoch where it has no step. None where its name says neither."""
    checkpoints: int
    """How many were averaged."""
    metric: str
    average: float
    """Of the model in `folder`."""
    best: float
    """Of the best single checkpoint."""
    last: float | None
    """Of the last checkpoint. None if it was not judged, or the result is not on this machine."""
    folder: str
    """The result."""
    job_id: str
    method: str = ""
    """The winner. `best` means that no average was better than the best checkpoint."""
    higher_is_better: bool = True
    gain: float = 0.0
    gain_low: float = 0.0
    gain_high: float = 0.0
    """Over the best checkpoint, with the 95 % interval. Positive when the average is better."""
    taken: Mapping[str, float] = field(default_factory=dict)
    """Checkpoint -> when its files last changed, in seconds since 1970. Empty where nobody looked."""
    ckpt_dir: str = ""
    """The folder that they are in."""
    files: tuple[str, ...] = ()
    """What the job wrote into `folder`."""


_POINT = TypeAdapter(CurvePoint)


def point_of(
    result: JobResult,
    job_id: str,
    *,
    step: int | float | None = None,
    taken: Mapping[str, float] | None = None,
    ckpt_dir: str = "",
) -> CurvePoint:
    """The point of a job that succeeded. Without `step` it is that of the last checkpoint in the result's report."""
    scores = {candidate.method: candidate.select[result.metric] for candidate in result.candidates}
    average = scores[result.method]
    last = _last_checkpoint(result.folder)
    return CurvePoint(
        step=_number(last.get("step")) if step is None else step,
        checkpoints=result.num_checkpoints,
        metric=result.metric,
        average=average,
        best=scores.get("best", average - _higher_by(result)),
        last=_number(_inside(last, "select", "means", result.metric)),
        folder=result.folder,
        job_id=job_id,
        method=result.method,
        higher_is_better=result.higher_is_better,
        gain=result.gain,
        gain_low=result.gain_low,
        gain_high=result.gain_high,
        taken=dict(taken or {}),
        ckpt_dir=ckpt_dir,
        files=tuple(result.files),
    )


def append(path: Path, point: CurvePoint) -> None:
    """Adds one line, which is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(point), allow_nan=False) + "\n"
    with path.open("a+b") as file:
        # A line that was cut off stays a line of its own.
        start = b"\n" if file.tell() and not _ends_with_newline(path) else b""
        file.write(start + line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[CurvePoint]:
    """All points, oldest first; none where there is no file. A line that was cut off is left out.

    Raises ValueError for a line of something else, and OSError where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    points = []
    for number, line in enumerate(text.splitlines(), start=1):
        if (values := _values(line)) is None:
            continue
        try:
            points.append(_POINT.validate_python(values))
        except ValidationError as error:
            name = one_line(str(path))
            raise ValueError(
                f"`{name}` must be a curve of averages, but line {number} is not a point of one."
            ) from error
    return points


def _values(line: str) -> Any:
    """None for what is no JSON: a write was cut off there."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _last_checkpoint(folder: str) -> Mapping[str, Any]:
    """What the report says about it. Nothing where the folder is on another machine, or is of another kind."""
    with suppress(NotAResult, OSError, ValueError):
        report, _ = read_report(Path(folder))
        rows = report.get("checkpoints") if isinstance(report, dict) else None
        if isinstance(rows, list) and rows and isinstance(rows[-1], dict):
            return rows[-1]
    return {}


def _inside(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> int | float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_one else None


def _higher_by(result: JobResult) -> float:
    """How much higher the average's metric is: a gain makes a loss lower."""
    return result.gain if result.higher_is_better else -result.gain
