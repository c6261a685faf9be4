"""What the page shows as a command, as Python and for curl submits the same job."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import ladle
from ladle._spec import build_spec
from ladle.cli.job_flags import JobArguments, JobCommand, with_job_flags
from ladle_contracts import JobSpec
from ladle_service.pages.equivalents import command, curl, python
from tests.unit.service.pages.test_form_values import SPECS

URL = "http://127.0.0.1:8337"
HOSTILE = {
    "ckpt_dir": '/data/$(touch x)/it\'s "quoted" `here`',
    "val_set": "/data/<img src=x onerror=alert(1)>",
    "labels": {"a'b": "$HOME; rm -rf /"},
}
BODIES = [*SPECS, HOSTILE]


def words_of(text: str) -> list[str]:
    """What a shell makes of a command."""
    script = f'ladle() {{ printf "%s\\0" "$@"; }}; curl() {{ ladle "$@"; }}\n{text}'
    told = subprocess.run(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True, env={"LADLE_TOKEN": "secret"}
    )
    return told.stdout.split("\0")[:-1]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[JobSpec]:
    """The specs of the jobs that a script has submitted."""
    found: list[JobSpec] = []

    class NoJob:
        def result(self) -> Any:
            return type("Result", (), {"folder": ""})

    def submit(ckpt_dir: Any, val_set: Any, *, url: str, **options: Any) -> NoJob:
        assert url == URL
        found.append(build_spec(ckpt_dir, val_set, options))
        return NoJob()

    monkeypatch.setattr(ladle, "submit", submit)
    return found


@pytest.mark.parametrize("body", BODIES, ids=lambda body: ",".join(body))
def test_the_command_submits_the_same_job(body: dict[str, Any]) -> None:
    jobs: list[JobArguments] = []
    app = typer.Typer()

    @app.command(cls=JobCommand)
    @with_job_flags
    def submit(job: JobArguments, url: str = "") -> None:
        assert url == URL
        jobs.append(job)

    name, *words = words_of(command(body, URL))
    assert name == "submit"
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    (job,) = jobs
    assert build_spec(job.ckpt_dir, job.val_set, job.options) == JobSpec.model_validate_json(json.dumps(body))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: ",".join(body))
def test_the_script_submits_the_same_job(body: dict[str, Any], submitted: list[JobSpec]) -> None:
    exec(python(body, URL, with_token=True), {})
    assert submitted == [JobSpec.model_validate_json(json.dumps(body))]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: ",".join(body))
def test_curl_sends_the_same_job(body: dict[str, Any]) -> None:
    words = words_of(curl(body, URL, with_token=True))
    assert words[:3] == [f"{URL}/v1/jobs", "-H", "Authorization: Bearer secret"]
    assert json.loads(words[words.index("--data") + 1]) == body
    assert "LADLE_TOKEN" not in curl(body, URL, with_token=False)


def test_what_is_missing_is_named_as_in_the_help() -> None:
    assert command({}, URL) == f"ladle submit CKPT_DIR VAL_SET --url {URL}"
    assert "'CKPT_DIR'," in python({}, URL, with_token=False)
