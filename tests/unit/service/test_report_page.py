"""The report of a result: a file that a worker's rank wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ladle_contracts import JobState
from ladle_service.pages import report
from tests.browser.jobs_made import result
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
