"""`ladle report` and `ladle compare`, with results on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from ladle.cli.app import app
from ladle_contracts import ErrorCode, JobRecord, JobState
from tests.unit.client.answers import RESULT, client, ok, problem, record
from tests.unit.report.html_pages import parse
from tests.unit.report.reports import older, report


def ladle(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def result(folder: Path, told: Any) -> Path:
    """A result folder as far as these commands look at it."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(told))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("name", ["", "report.json"])
def test_an_old_result_gets_its_page_and_nothing_else_changes(tmp_path: Path, name: str) -> None:
    folder = result(tmp_path / "old", older())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    done = ladle("report", folder / name)
    assert done.exit_code == 0
    assert "Accuracy 90.0 % instead of 86.7 %" in done.stdout
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "model.safetensors"}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert len(list(parse((folder / "report.html").read_text()).all("section"))) == 8


def test_a_link_in_the_place_of_the_page_is_replaced_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = result(tmp_path / "r", report()), tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (folder / "report.html").symlink_to(elsewhere)
    assert ladle("report", folder).exit_code == 0
    assert elsewhere.read_text() == "mine"
    assert not (folder / "report.html").is_symlink()


def test_the_page_may_be_written_elsewhere_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    folder, page = result(tmp_path / "r", report()), tmp_path / "page.html"
    assert ladle("report", folder, "--output", page, "--open").exit_code == 0
    assert opened == [page.as_uri()]
    assert str(folder) in page.read_text()
    assert not (folder / "report.html").exists()


def test_markdown_and_plot_go_to_the_terminal_and_write_nothing(tmp_path: Path) -> None:
    folder = result(tmp_path / "r", report())
    assert ladle("report", folder, "--markdown").stdout.startswith("**Accuracy 90.0 %")
    assert "twa-layerwise" in ladle("report", folder, "--plot").stdout
    assert not (folder / "report.html").exists()


def test_two_results_are_compared_in_the_terminal_or_on_a_page(tmp_path: Path) -> None:
    first, second = result(tmp_path / "a", report()), result(tmp_path / "b", report(K=4))
    done = ladle("compare", first, second)
    assert done.exit_code == 0
    assert "Inputs that differ" in done.stdout
    assert ladle("compare", first, second, "--output", tmp_path / "page.html").exit_code == 0
    assert len(list(parse((tmp_path / "page.html").read_text()).all("section"))) == 4


def without_weights() -> dict[str, Any]:
    odd = report()
    odd["candidates"][3]["coefficients"] = [[]]
    return odd


@pytest.mark.parametrize(
    "told", [[], {}, {"winner": "twa"}, {**report(), "candidates": [{"method": "twa"}]}, without_weights()]
)
def test_what_ladle_did_not_write_is_refused_in_words(tmp_path: Path, told: Any) -> None:
    done = ladle("report", result(tmp_path / "r", told))
    assert done.exit_code == 1
    assert "not one that Ladle wrote" in str(done.exception)


def test_a_folder_that_is_no_result_and_a_typing_mistake_are_told(tmp_path: Path) -> None:
    assert "it has no report.json" in str(ladle("report", tmp_path).exception)
    assert "typing mistake" in ladle("report", tmp_path / "nowhere").output


def test_a_folder_that_cannot_be_written_leaves_the_page_to_another_place(tmp_path: Path) -> None:
    folder = result(tmp_path / "r", report())
    done = ladle("report", folder, "--output", tmp_path / "no such folder" / "page.html")
    assert "--output FILE" in str(done.exception)


def answering(monkeypatch: pytest.MonkeyPatch, job: JobRecord | None) -> None:
    """A service that knows one job, or none."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return ok(job) if job is not None else problem(ErrorCode.NOT_FOUND)

    monkeypatch.setattr("ladle.cli.report_commands.service_client", lambda url, token: client(answer))


def test_the_id_of_a_job_stands_for_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = result(tmp_path / "r", report())
    found = RESULT.model_copy(update={"folder": str(folder)})
    answering(monkeypatch, record(JobState.SUCCEEDED, result=found))
    assert ladle("report", "j1").exit_code == 0
    assert (folder / "report.html").exists()


def test_a_job_without_a_result_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, record(JobState.RUNNING))
    assert "it is running. `ladle watch j1`" in str(ladle("report", "j1").exception)
    answering(monkeypatch, record(JobState.SUCCEEDED))
    told = str(ladle("report", "j1").exception)
    assert "does not see" in told
    assert "http://ladle.test/jobs/j1/report" in told
    answering(monkeypatch, None)
    assert "There is no folder `j1` here" in str(ladle("report", "j1").exception)
