"""The report of a result: a file that a worker's rank wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ladle_contracts import JobState
from ladle_report import answer, page
from ladle_service.pages import report
from tests.browser.jobs_made import result
from tests.hostile import HOSTILE
from tests.unit.report.reports import report as made_report
from tests.unit.service.fakes import Service

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
HTML = {"Accept": "text/html"}


@pytest.fixture
def done(service: Service, run_async: RunAsync) -> Service:
    """With a job that has succeeded, whose result's folder is `job1`."""

    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())

    run_async(use())
    service.store.move("job1", JobState.SUCCEEDED, result=result("/results/of-somebody-else"))
    (service.results / "job1").mkdir()
    (service.results / "of-somebody-else").mkdir()
    (service.results / "of-somebody-else" / "report.html").write_text("theirs")
    return service


def shown(service: Service, run_async: RunAsync) -> tuple[int, str, str]:
    """Status, text and policy."""
    found: list[tuple[int, str, str]] = []

    async def use() -> None:
        async with service.client() as client:
            answer = await client.get("/jobs/job1/report", headers=HTML)
        found.append((answer.status_code, answer.text, answer.headers["content-security-policy"]))

    run_async(use())
    return found[0]


def test_a_report_is_shown_in_a_sandbox_that_runs_only_our_script(done: Service, run_async: RunAsync) -> None:
    (done.results / "job1" / "report.html").write_text("<h1>ours</h1>")
    status, text, policy = shown(done, run_async)
    assert (status, text) == (200, "<h1>ours</h1>")
    assert policy.startswith("sandbox allow-scripts ")
    assert "allow-same-origin" not in policy
    assert "script-src 'sha256-" in policy
    assert "script-src 'unsafe" not in policy


@pytest.mark.parametrize(
    "text",
    [
        '<meta http-equiv="refresh" content="0;url=https://evil.example/?weights">',
        '<META HTTP-EQUIV=refresh content="0;url=https://evil.example">',
        "<link rel=preconnect href=https://weights.evil.example>",
        '<a href="https://evil.example">log in</a>',
        '<svg><a xlink:href="https://evil.example"><text>log in</text></a></svg>',
        '<svg><a href="#x"><set attributeName="&#104;ref" to="https://evil.example"/></a></svg>',
        '<iframe srcdoc="&lt;link rel=preconnect hre&#102;=https://evil.example&gt;"></iframe>',
    ],
)
def test_a_page_that_leads_away_is_made_anew(done: Service, run_async: RunAsync, text: str) -> None:
    """No policy keeps a page in a sandbox from that."""
    (done.results / "job1" / "report.html").write_text(f"<!doctype html>{text}")
    assert shown(done, run_async)[0] == 404
    (done.results / "job1" / "report.json").write_text(json.dumps(made_report()))
    status, shown_text, _ = shown(done, run_async)
    assert status == 200
    assert "evil.example" not in shown_text
    assert answer(made_report()) in shown_text


def test_our_own_page_leads_nowhere_whatever_names_it_has() -> None:
    assert report.LEADS_AWAY.search(page(made_report(40, 12))) is None
    names = [f"{number}-{HOSTILE}" for number in range(6)]
    assert report.LEADS_AWAY.search(page(made_report(names=names))) is None


@pytest.mark.parametrize("part", ["job1", "job1/report.html"])
def test_a_link_in_the_place_of_a_report_is_not_followed(done: Service, run_async: RunAsync, part: str) -> None:
    (done.results / "job1").rmdir()
    there = done.results / part
    there.parent.mkdir(exist_ok=True)
    there.symlink_to(done.results / "of-somebody-else" / ("report.html" if "/" in part else ""))
    status, text, _ = shown(done, run_async)
    assert status == 404
    assert "theirs" not in text


def test_what_is_no_file_or_too_large_is_not_shown_and_said(
    done: Service, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = done.results / "job1" / "report.html"
    status, text, _ = shown(done, run_async)
    assert (status, "ladle report /results/of-somebody-else" in text) == (404, True)
    os.mkfifo(path)
    assert shown(done, run_async)[0] == 404
    path.unlink()
    path.mkdir()
    assert shown(done, run_async)[0] == 404
    path.rmdir()
    monkeypatch.setattr(report, "MOST_BYTES", 10)
    path.write_text("a" * 11)
    assert shown(done, run_async)[0] == 404


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"winner": 3}', "[" * 100_000, '{"metric": {"name": null}}'])
def test_a_broken_report_of_an_older_version_is_as_good_as_none(done: Service, run_async: RunAsync, told: str) -> None:
    (done.results / "job1" / "report.json").write_text(told)
    assert shown(done, run_async)[0] == 404


def test_a_job_that_has_no_result_says_why(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await client.post("/v1/jobs", json=service.spec())
            assert "not-finished" in (await client.get("/jobs/job1/report", headers=HTML)).text
            service.store.move("job1", JobState.FAILED, message="It ended early.")
            answer = await client.get("/jobs/job1/report", headers=HTML)
        assert answer.status_code == 404
        assert "It ended early." in answer.text

    run_async(use())
