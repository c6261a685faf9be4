"""What trackers are told of a job, and what happens where one fails."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ladle_engine import progress
from ladle_trackers import guarded, registry, tracked
from ladle_trackers.base import Run
from ladle_trackers.guarded import Guarded, without_secrets
from tests.trackers.job import EVENTS, NAMES, write_result


class Recording:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.told: list[tuple[Any, ...]] = []
        self.fails_at = ""
        MADE.append(self)

    def _tell(self, *what: Any) -> None:
        if what[0] == self.fails_at:
            raise ConnectionError("no way to https://user:pass@host/x with s3cret-value\n at all")
        self.told.append(what)

    def numbers(self, series: str, values: Mapping[str, float], step: float) -> None:
        self._tell("numbers", series, dict(values), step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._tell("table", name, list(columns), [list(row) for row in rows])

    def summary(self, values: Mapping[str, Any]) -> None:
        self._tell("summary", dict(values))

    def report(self, markdown: str, files: Sequence[Path]) -> None:
        self._tell("report", markdown, {file.name: file.read_bytes() for file in files})

    def end(self, *, ok: bool) -> None:
        self._tell("end", ok)


MADE: list[Recording] = []


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    MADE.clear()
    monkeypatch.setitem(registry.TRACKERS, "tensorboard", Recording)
    return []


def follow(tmp_path: Path, heard: list[str]) -> tuple[Guarded, Recording]:
    run = Run(project="p", name="r", id="i", folder=tmp_path)
    tracker = Guarded("tensorboard", run, heard.append)
    return tracker, MADE[-1]


def test_losses_candidates_coefficients_and_the_report_are_told(tmp_path: Path, heard: list[str]) -> None:
    tracker, made = follow(tmp_path, heard)
    for event in EVENTS:
        tracker.event(event)
    write_result(tmp_path / "result")
    tracker.result(tmp_path / "result")
    tracker.end(ok=True)
    assert heard == []
    numbers = [what[1:] for what in made.told if what[0] == "numbers"]
    assert ("train/twa", {"loss": 0.5}, 1) in numbers
    assert ("train/twa", {"loss": 0.25}, 2) in numbers
    twa = {"select_accuracy": 0.95, "fit_accuracy": 0.97, "gain": 0.05, "gain_low": 0.01, "gain_high": 0.09}
    assert ("candidates/twa", twa, 2) in numbers
    assert ("coefficients/twa", {NAMES[0]: 0.4, NAMES[1]: 0.6}, 2) in numbers
    assert ("merge_curve", {"alone": 0.91}, 200) in numbers
    tables = {what[1]: what[2:] for what in made.told if what[0] == "table"}
    assert tables["coefficients"] == (
        ["checkpoint", "body", "head"], [[NAMES[0], 0.25, 0.5], [NAMES[1], 0.75, 0.5]],
    )  # fmt: skip
    assert [row[0] for row in tables["candidates"][1]] == ["best", "twa"]
    [summary] = [what[1] for what in made.told if what[0] == "summary" and "winner" in what[1]]
    assert (summary["winner"], summary["value"], summary["gain_low"]) == ("twa", 0.95, 0.01)
    [(_, words, files)] = [what for what in made.told if what[0] == "report"]
    assert set(files) == {"report.html", "report.json", "coefficients.json"}
    assert "Accuracy 95.0 %" in words
    assert made.told[-1] == ("end", True)


@pytest.mark.parametrize("where", ["numbers", "table", "summary", "report", "end"])
def test_a_tracker_that_fails_is_told_no_more_and_one_sentence_says_why(
    tmp_path: Path, heard: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cret-value")
    tracker, made = follow(tmp_path, heard)
    made.fails_at = where
    write_result(tmp_path / "result")
    for event in EVENTS:
        tracker.event(event)
    tracker.result(tmp_path / "result")
    tracker.end(ok=True)
    [sentence] = heard
    assert sentence == (
        "The tracker `tensorboard` was told nothing more, because it failed: ConnectionError: no way to "
        "https://***@host/x with *** at all."
    )
    assert tracker.has_failed


def test_a_library_that_is_not_there_is_named_with_how_to_install_it(tmp_path: Path) -> None:
    heard: list[str] = []
    tracker = Guarded("wandb", Run(project="p", name="r", id="i", folder=tmp_path), heard.append)
    assert tracker.has_failed
    assert "pip install wandb" in heard[0]


def test_links_pipes_and_huge_files_of_a_result_are_not_read(
    tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks write the result, and a stranger's checkpoint may have taken them over."""
    secret = tmp_path / "secret"
    secret.write_text("the operator's")
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "report.html").symlink_to(secret)
    os.mkfifo(folder / "coefficients.json")
    (folder / "report.json").write_text(json.dumps({"x": "y" * 100}))
    monkeypatch.setattr(guarded, "MOST_BYTES", 50)
    tracker, made = follow(tmp_path, heard)
    tracker.result(folder)
    assert [what[2] for what in made.told if what[0] == "report"] == [{}]
    assert heard == []


@pytest.mark.parametrize(
    "report",
    [
        "[]", "null", "{", '{"candidates": 3, "checkpoints": {"a": 1}, "training": [], "merge_curve": {"points": 7}}',
        '{"winner": "x", "candidates": [{"method": "x", "coefficients": [3], "groups": "g"}], "checkpoints": [1]}',
        '{"training": {"twa": {"steps": [1, "x"], "coefficients": [[1], "y"]}}, "merge_curve": {"points": [null]}}',
    ],
)  # fmt: skip
def test_a_report_of_nonsense_harms_nothing(tmp_path: Path, heard: list[str], report: str) -> None:
    (tmp_path / "report.json").write_text(report)
    tracker, _ = follow(tmp_path, heard)
    tracker.result(tmp_path)
    assert len(heard) <= 1, "at most a warning"


def test_the_engines_own_events_are_told_in_a_notebook(tmp_path: Path, heard: list[str]) -> None:
    write_result(tmp_path / "result")
    score = progress.Score(method="twa", label="twa", select={"accuracy": 0.5}, gain=0.1, gain_low=0.0, gain_high=0.2)
    with tracked("tensorboard", folder=tmp_path) as tracking:
        tracking(progress.StepDone(stage="train", method="twa", step=3, total=5, loss=0.5))
        tracking(progress.CandidateScored(score=score))
        tracking.result(tmp_path / "result")
    told = MADE[-1].told
    assert told[0] == ("numbers", "train/twa", {"loss": 0.5}, 3)
    assert told[1][1] == "candidates/twa"
    assert told[-1] == ("end", True)


def test_a_failing_tracker_is_a_warning_in_a_notebook(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="`trackio` was told nothing more"),
        tracked("trackio", folder=tmp_path) as made,
    ):
        made(EVENTS[0])


def test_secrets_of_the_environment_are_taken_out_and_long_lines_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    assert (
        without_secrets("login with correct horse failed\nat http://a:b@c/") == "login with *** failed at http://***@c/"
    )
    assert len(without_secrets("x" * 1000)) < 400
