"""Deletes results that a watch made and that neither are the newest nor the best. Nothing else is ever deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ladle._reports import REPORT_FILE, NotAResult, read_report
from ladle.curve import CurvePoint


def best_of(points: Sequence[CurvePoint]) -> CurvePoint:
    """The one with the best average, of the last point's metric; of equal ones the newest."""
    alike = [point for point in points if point.metric == points[-1].metric]
    return max(reversed(alike), key=lambda point: point.average if point.higher_is_better else -point.average)


def delete_others(points: Sequence[CurvePoint]) -> list[str]:
    """Deletes the results of all points but the newest and the best; the folders that it deleted.

    A result is deleted only if its report names the point's job, and it holds nothing that the job did not write.
    Raises OSError where a file cannot be deleted.
    """
    kept = {points[-1].folder, best_of(points).folder}
    return [point.folder for point in points if point.folder not in kept and _delete(point)]


def _delete(point: CurvePoint) -> bool:
    folder = Path(point.folder)
    if not _is_result(folder, point.job_id):
        return False
    there = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if not {path.relative_to(folder).as_posix() for path in there} <= set(point.files):
        return False
    # The report goes last: what is interrupted is deleted by the next average.
    for path in sorted(there, key=lambda path: path == folder / REPORT_FILE):
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()
    return True


def _is_result(folder: Path, job_id: str) -> bool:
    """Whether it is the result of this job."""
    try:
        report, _ = read_report(folder)
        return bool(report["provenance"]["job_id"] == job_id)
    except (NotAResult, OSError, KeyError, TypeError):
        return False
