"""The curve of averages is a file of points that survives what may happen to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ladle.curve import CurvePoint, append, point_of, read
from ladle_contracts import CandidateResult
from tests.unit.client.answers import RESULT

CANDIDATES = (
    CandidateResult(method="best", label="best (b)", select={"accuracy": 0.88, "loss": 0.5}),
    CandidateResult(method="twa", label="twa", select={"accuracy": 0.9, "loss": 0.4}),
)


def point(**changes: Any) -> CurvePoint:
    values: dict[str, Any] = {
        **{"step": 300, "checkpoints": 3, "metric": "accuracy", "average": 0.9, "best": 0.88, "last": 0.87},
        **{"folder": "/results/a", "job_id": "j1", "method": "twa", "gain": 0.02, "taken": {"checkpoint-300": 17.5}},
    }
    return CurvePoint(**{**values, **changes})


def report(folder: Path, rows: Any) -> str:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"checkpoints": rows}))
    return str(folder)


def test_points_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curve.jsonl"
    assert read(path) == []
    written = [point(), point(step=None, last=None, job_id="j2"), point(step=0.5, taken={})]
    for each in written:
        append(path, each)
    assert read(path) == written
    assert len(path.read_text().splitlines()) == 3


def test_a_line_that_was_cut_off_costs_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    append(path, point())
    path.write_bytes(path.read_bytes() + b'{"step": 40')
    assert read(path) == [point()]
    append(path, point(step=400))
    assert read(path) == [point(), point(step=400)]


def test_a_line_of_a_newer_version_is_read_and_one_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    append(path, point())
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}) + "\n")
    assert read(path) == [point()]
    path.write_text('{"loss": 3}\n')
    with pytest.raises(ValueError, match=r"must be a curve of averages, but line 1 is not"):
        read(path)


def test_the_point_of_a_job_has_the_average_the_best_and_the_last_checkpoint(tmp_path: Path) -> None:
    rows = [{"step": 100, "select": None}, {"step": 200, "select": {"examples": 50, "means": {"accuracy": 0.86}}}]
    result = RESULT.model_copy(update={"candidates": CANDIDATES, "folder": report(tmp_path / "r", rows)})
    found = point_of(result, "j1", taken={"a": 1.0})
    assert (found.step, found.average, found.best, found.last) == (200, 0.9, 0.88, 0.86)
    assert (found.checkpoints, found.method, found.gain, found.taken) == (4, "twa", 0.02, {"a": 1.0})
    assert point_of(result, "j1", step=7).step == 7


@pytest.mark.parametrize(
    "rows",
    [
        [],
        None,
        [3],
        [{}],
        [{"select": {"means": {"loss": 1.0}}}],
        [{"step": "x", "select": {"means": {"accuracy": "high"}}}],
    ],
)
def test_what_a_report_does_not_say_is_not_known(tmp_path: Path, rows: Any) -> None:
    result = RESULT.model_copy(update={"candidates": CANDIDATES, "folder": report(tmp_path / "r", rows)})
    found = point_of(result, "j1")
    assert (found.step, found.last) == (None, None)


def test_a_result_on_another_machine_has_a_point_too() -> None:
    result = RESULT.model_copy(update={"candidates": CANDIDATES, "folder": "/nowhere/at/all"})
    assert point_of(result, "j1", step=5).last is None


def test_without_a_candidate_for_the_best_checkpoint_its_value_follows_from_the_gain() -> None:
    assert point_of(RESULT, "j1").best == pytest.approx(0.88)
    lower = {"candidates": (CandidateResult(method="twa", label="twa", select={"loss": 0.4}),)}
    loss = RESULT.model_copy(update={**lower, "metric": "loss", "higher_is_better": False, "gain": 0.1})
    assert point_of(loss, "j1").best == pytest.approx(0.5)
