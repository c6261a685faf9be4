"""The process that uploads, as its agent sees it; and what stays when a store cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ladle_contracts import JobState
from ladle_contracts.environment import explain_settings
from ladle_worker.claim import Fate
from ladle_worker.clock import now
from ladle_worker.far_output import ResultsHelper
from ladle_worker.job_folder import JobFolder, write_whole
from ladle_worker.leftovers import clear_leftovers
from ladle_worker.settings import Settings
from tests.far_servers import S3
from tests.polling import until

URL = "s3://bucket/results/x"


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """With a result of attempt 1."""
    (tmp_path / "results/.ladle").mkdir(parents=True)
    job = JobFolder(tmp_path / "results", "one")
    job.make(1)
    (job.staging(1) / "model.safetensors").write_bytes(b"weights")
    report = {"provenance": {"job_id": "one", "attempt": "1"}}
    (job.staging(1) / "report.json").write_text(json.dumps(report))
    return job


def test_nothing_is_written_but_while_the_agent_says_so(s3: S3, job: JobFolder) -> None:
    request = {
        "url": URL,
        "job_id": "one",
        "staging": str(job.staging(1)),
        "attempt_folder": str(job.attempt(1).path),
    }
    folder = job.attempt(1)

    def done(helper: ResultsHelper) -> bool:
        return helper.poll() is not None

    with folder.log.open("ab") as log, ResultsHelper(request, folder.path, log) as helper:
        helper.ask("look")
        until(lambda: done(helper), what="an answer")
        assert helper.answer() == {"ok": True, "free": True, "provenance": {}, "files": {}}
        helper.ask("upload")
        # It has listed the folder, and waits before the first request that writes.
        until(lambda: len([each for each in s3.requests if "list-type" in each]) > 2, what="the upload to begin")
        assert not done(helper)
        helper.may_write_until(now() - 1)
        assert not done(helper)
        assert not [each for each in s3.requests if each.startswith("PUT")]
        helper.may_write_until(now() + 600)
        until(lambda: done(helper), what="the upload")
        assert helper.answer() == {"ok": True}
        assert "results/x/report.json" not in s3.found()
        helper.may_write_until(now() + 600)
        helper.ask("publish")
        until(lambda: done(helper), what="the report")
    assert s3.found() == ["results/x/model.safetensors", "results/x/report.json"]


@pytest.mark.slow
def test_a_job_that_did_not_succeed_is_cleared_up_once_its_store_answers(
    s3: S3, job: JobFolder, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(roots=(job.results_dir,), results_dir=job.results_dir)
    for path in job.staging(1).iterdir():
        s3.put_bytes(f"results/x/{path.name}", path.read_bytes())
    write_whole(job.far_result, URL)
    s3.fault = lambda method, path: "AccessDenied" if method in ("PUT", "DELETE") else None
    fate = Fate(state=JobState.CANCELLED, output="x")
    clear_leftovers(settings, "one", fate)
    assert "must be writable" in caplog.text
    assert job.path.exists(), "it shows that there is something to do"
    s3.fault = lambda method, path: None
    clear_leftovers(settings, "one", fate)
    assert not s3.found()
    assert not job.path.exists()


def test_the_result_of_a_job_that_succeeded_stays(s3: S3, job: JobFolder) -> None:
    s3.put_bytes("results/x/report.json", (job.staging(1) / "report.json").read_bytes())
    write_whole(job.far_result, URL)
    settings = Settings(roots=(job.results_dir,), results_dir=job.results_dir)
    s3.requests.clear()
    clear_leftovers(settings, "one", Fate(state=JobState.SUCCEEDED, output="x"))
    assert not job.path.exists()
    assert s3.found() == ["results/x/report.json"]
    assert not s3.requests, "nobody asked the store"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://host/results", "is one of HTTP"),
        ("ftp://host/results", "is not one of the schemes"),
        ("s3://key:secret@bucket/results", "Credentials come from the operator"),
        ("/results", "is not one of the schemes"),
    ],
)
def test_an_address_that_results_cannot_go_to_is_refused_at_the_start(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(roots=(tmp_path,), results_dir=tmp_path, results_url=url)
    (line,) = explain_settings(caught.value)
    assert line.startswith("`LADLE_RESULTS_URL` must be an address")
    assert words in line
    assert "secret" not in line
