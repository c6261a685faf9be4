"""What a training does with a result: numbers for its tracker, and the model beside its best one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ladle.callbacks._kept_folder import put_in_place, remove
from ladle.curve import CurvePoint
from ladle_contracts import JobResult
from ladle_contracts.safe_text import one_line
from ladle_report.gains import compared

REPORT = "report.json"


def tracked(result: JobResult) -> dict[str, float]:
    """`ladle/accuracy` of the averaged model, `ladle/best_accuracy` of the best checkpoint, ... on the select split."""
    scores = {candidate.method: candidate.select for candidate in result.candidates}
    average = {f"ladle/{name}": value for name, value in scores.get(result.method, {}).items()}
    best = {f"ladle/best_{name}": value for name, value in scores.get("best", {}).items()}
    return {**average, **best, "ladle/gain": result.gain}


def tracked_point(point: CurvePoint) -> dict[str, float]:
    """What a result does not say: the step whose average it is, and the last checkpoint's score."""
    found = {} if point.step is None else {"ladle/step": float(point.step)}
    return found if point.last is None else {**found, f"ladle/last_{point.metric}": point.last}


def summary(result: JobResult) -> str:
    """One line for people."""
    if result.method == "best":
        return (
            f"Ladle: no average of {result.num_checkpoints} checkpoints was better than the best one, "
            f"{result.best_checkpoint}, which is the result."
        )
    gain = compared(result.metric, result.higher_is_better, result.gain)
    return f"Ladle: {result.method} of {result.num_checkpoints} checkpoints has {gain} than the best one."


def place(result: Path, place: Path) -> None:
    """Puts the model of a result folder in a place of its own: whole, or not at all.

    Files are linked where both are on one disk. A result of Ladle that is there is replaced; raises FileExistsError
    for anything else.
    """
    if place.exists() and not (place / REPORT).exists():
        raise FileExistsError(one_line(f"`{place}` exists, and is no result of Ladle."))
    new, aside = (place.with_name(f".{place.name}.{os.getpid()}.{kind}") for kind in ("new", "replaced"))
    remove(new)
    try:
        shutil.copytree(result, new, copy_function=_link_or_copy)
        put_in_place(new, place, aside=aside)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
