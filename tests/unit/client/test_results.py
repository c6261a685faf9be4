"""Results are found again by their reports, and whatever else lies in the folder is passed over with a word."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ladle import _reports
from ladle.cli import console
from ladle.cli.app import app
from ladle.cli.results import find_results

REPORT: dict[str, Any] = {
    "format": 1,
    "winner": "twa",
    "metric": {"name": "accuracy", "higher_is_better": True},
    "task": "image-classification",
    "gain": {"value": 0.02, "low": 0.01, "high": 0.03},
    "checkpoints": [{"name": "a"}, {"name": "b"}],
    "num_parameters": 100,
    "provenance": {"job_id": "j1", "attempt": "1"},
}


def make_result(folder: Path, report: Any = None, *, written_s: float = 1_700_000_000, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    text = json.dumps(REPORT | changes) if report is None else report
    path = folder / "report.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (written_s, written_s))
    return folder


def list_results(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["list", "--from-results", *arguments])


def test_results_are_listed_newest_first_with_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 200)  # it took its width when it was made
    make_result(tmp_path / "old", written_s=1_600_000_000)
    make_result(tmp_path / "new", provenance={"job_id": "j2"})
    make_result(tmp_path / "from-python", written_s=1_500_000_000, provenance={})
    (tmp_path / ".ladle").mkdir()
    passed_over: list[str] = []
    found = find_results(tmp_path, passed_over.append)
    assert [(result.job_id, Path(result.folder).name) for result in found] == [
        ("j2", "new"), ("j1", "old"), (None, "from-python"),
    ]  # fmt: skip
    assert not passed_over
    first = found[0]
    assert (first.method, first.metric, first.gain, first.num_checkpoints) == ("twa", "accuracy", 0.02, 2)
    assert first.size_bytes == 1000 + (tmp_path / "new" / "report.json").stat().st_size
    assert first.written_at.timestamp() == 1_700_000_000
    shown = list_results(str(tmp_path))
    assert shown.exit_code == 0
    assert "twa: accuracy 2.00 points higher" in shown.stdout
    listed = json.loads(list_results(str(tmp_path), "--json", "--limit", "2").stdout)
    assert [each["job_id"] for each in listed] == ["j2", "j1"]
    assert listed[0]["gain"] == 0.02


def no_folder(path: Path) -> None:
    path.write_text("a file")


def link(path: Path) -> None:
    path.symlink_to(make_result(path.parent.parent / "elsewhere"))


def linked_report(path: Path) -> None:
    path.mkdir()
    (path / "report.json").symlink_to(make_result(path.parent.parent / "elsewhere") / "report.json")


def pipe(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "report.json")


def folder_for_report(path: Path) -> None:
    (path / "report.json").mkdir(parents=True)


def huge(path: Path) -> None:
    make_result(path)
    os.truncate(path / "report.json", _reports.MOST_BYTES + 1)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a file": no_folder,
    "a link": link,
    "a report that is a link": linked_report,
    "a pipe": pipe,
    "a folder as report": folder_for_report,
    "no report": lambda path: path.mkdir(),
    "huge": huge,
    "empty": lambda path: make_result(path, ""),
    "cut": lambda path: make_result(path, json.dumps(REPORT)[:-9]),
    "not UTF-8": lambda path: make_result(path, b'{"winner": "\xff"}'),
    "nested": lambda path: make_result(path, "[" * 100_000),
    "a list": lambda path: make_result(path, "[]"),
    "null": lambda path: make_result(path, "null"),
    "a number": lambda path: make_result(path, "1e999"),
    "no winner": lambda path: make_result(path, json.dumps({"metric": {}})),
    "a winner that is a list": lambda path: make_result(path, winner=["twa"]),
    "a long winner": lambda path: make_result(path, winner="x" * 1000),
    "a surrogate": lambda path: make_result(path, winner="\ud800"),
    "NaN": lambda path: make_result(path, gain={"value": float("nan"), "low": 0.0, "high": 0.0}),
    "a text as gain": lambda path: make_result(path, gain={"value": "0.5", "low": 0.0, "high": 0.0}),
    "a number of checkpoints": lambda path: make_result(path, checkpoints=3),
    "no provenance": lambda path: make_result(path, provenance=None),
    "a list as job id": lambda path: make_result(path, provenance={"job_id": []}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_result_is_passed_over_with_a_word(tmp_path: Path, kind: str) -> None:
    (tmp_path / "results").mkdir()
    HOSTILE[kind](tmp_path / "results" / "broken\x1b[31m")
    make_result(tmp_path / "results" / "whole")
    os.utime(tmp_path / "results" / "whole" / "report.json", (0, 0))
    passed_over: list[str] = []
    found = find_results(tmp_path / "results", passed_over.append)
    assert [Path(result.folder).name for result in found] == ["whole"]
    assert len(passed_over) == 1
    assert "broken" in passed_over[0]
    shown = list_results(str(tmp_path / "results"))
    assert shown.exit_code == 0
    assert "whole" in shown.stdout
    assert "passed over" in shown.stderr
    assert "\x1b" not in shown.output


def test_a_folder_whose_name_is_not_utf8_is_listed(tmp_path: Path) -> None:
    make_result(Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")))
    (found,) = find_results(tmp_path, print)
    assert found.folder.endswith("r\\xff")
    assert "r\\xff" in list_results(str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--from-results", "nowhere"], "must be a folder of results"),
        (["list", "somewhere"], "--from-results"),
        (["list", "--from-results", "--state", "failed"], "takes no"),
        (["list", "--from-results", "--label", "a=b"], "takes no"),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
