"""A watch deletes its own results and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ladle.curve import CurvePoint
from ladle.watching.keep import best_of, delete_others
from ladle.watching.picture import draw, picture

FILES = ("model.safetensors", "report.json", "deep/part.bin")


def result(folder: Path, job_id: str, **changes: Any) -> CurvePoint:
    """A result on disk, and its point."""
    (folder / "deep").mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("x")
    (folder / "report.json").write_text(json.dumps({"provenance": {"job_id": job_id}}))
    values: dict[str, Any] = {
        **{"step": 1, "checkpoints": 2, "metric": "accuracy", "average": 0.5, "best": 0.4, "last": 0.4},
        **{"folder": str(folder), "job_id": job_id, "files": FILES},
    }
    return CurvePoint(**{**values, **changes})


def curve(tmp_path: Path, averages: list[float], **changes: Any) -> list[CurvePoint]:
    return [result(tmp_path / f"r{i}", f"j{i}", average=average, **changes) for i, average in enumerate(averages)]


def there(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()}


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    points = curve(tmp_path, [0.5, 0.9, 0.6, 0.7])
    assert delete_others(points) == [points[0].folder, points[2].folder]
    assert there(tmp_path) == {"r1", "r3"}
    assert delete_others(points) == [], "they are gone"


def test_the_best_loss_is_the_lowest_and_of_equal_ones_the_newest_counts(tmp_path: Path) -> None:
    points = curve(tmp_path, [0.3, 0.2, 0.2, 0.9], metric="loss", higher_is_better=False)
    assert best_of(points) is points[2]
    other = curve(tmp_path / "other", [9.0], metric="loss") + points[:0] + curve(tmp_path / "acc", [0.5])
    assert best_of(other).metric == "accuracy", "values of two metrics are not compared"


def of_another_job(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps({"provenance": {"job_id": "another"}}))


def without_report(folder: Path) -> None:
    (folder / "report.json").unlink()


def with_a_file_of_mine(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def linked(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(folder.with_name("moved"))


def with_a_link(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent)


@pytest.mark.parametrize("change", [of_another_job, without_report, with_a_file_of_mine, linked, with_a_link])
def test_what_is_not_only_its_own_is_not_touched(tmp_path: Path, change: Any) -> None:
    points = curve(tmp_path, [0.5, 0.9, 0.6])
    change(Path(points[0].folder))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert delete_others(points) == []
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_the_picture_has_a_line_for_each_of_three_and_a_gap_for_what_is_not_known(tmp_path: Path) -> None:
    points = curve(tmp_path, [0.5, 0.9, 0.6])
    points[1] = CurvePoint(**{**vars(points[1]), "last": None, "metric": "accuracy"})
    draw(points, tmp_path / "curve.svg")
    root = ElementTree.fromstring((tmp_path / "curve.svg").read_text())
    marks = {look: list(root.findall(f".//*[@class='m-{look}']")) for look in ("muted", "c1", "c2")}
    assert [len(each) for each in marks.values()] == [2, 3, 3], "last, best, average"
    heights = [float(mark.attrib["y"]) for mark in marks["c2"]]
    assert heights[1] == min(heights), "the best average is at the top"


def test_one_point_and_points_without_steps_have_a_picture(tmp_path: Path) -> None:
    (only,) = curve(tmp_path, [0.5], step=None)
    assert "average</text>" in picture([only])
    ElementTree.fromstring(picture([only, only]))
