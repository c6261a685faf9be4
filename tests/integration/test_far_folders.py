"""Far folders through the real stack: fetched by the worker, averaged by ranks that have no network, and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle import InvalidSpec
from ladle_contracts import CurveChoice, JobRecord, JobSpec, JobState, MethodChoice, Output, Reason
from tests.builders import make_checkpoints, make_val_set
from tests.far_servers import S3, s3_server
from tests.integration.api_stack import api_stack
from tests.integration.life import Cluster, Gate
from tests.integration.test_command import ladle
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, running

pytestmark = pytest.mark.slow


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A run at `s3://bucket/run`."""
    make_checkpoints(tmp_path / "run" / "ckpts")
    make_val_set(tmp_path / "run" / "val.npz")
    with s3_server() as server:
        server.put(tmp_path / "run", "run")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def worker(tmp_path: Path, server: RedisServer, s3: S3) -> Iterator[Process]:
    """Its only root is far."""
    process = gated_worker(tmp_path, server, tmp_path, FAR_CACHE=str(tmp_path / "cache"))
    process.environment = {**process.environment, "LADLE_ROOTS": "s3://bucket/run"}
    with running(process) as started:
        yield started


SPEC = JobSpec(
    ckpt_dir="s3://bucket/run/ckpts",
    val_set="s3://bucket/run/val.npz",
    method=MethodChoice(name="twa", options={"steps": 3}),
    output=Output(name="out"),
)


def test_a_job_reads_from_s3_what_it_needs_and_its_report_says_where_from(
    tmp_path: Path, made: Cluster, worker: Process, s3: S3
) -> None:
    s3.put_bytes("run/ckpts/optimizer.pt", bytes(2_000_000))
    record = made.finish(made.submit(SPEC))
    assert record.state == JobState.SUCCEEDED, record
    stages = [event.body.stage for event in made.events(record.id) if event.body.kind == "stage"]
    assert stages[0] == "fetch"
    report = (tmp_path / "results" / "out" / "report.json").read_text()
    assert "s3://bucket/run/ckpts/epoch-1.safetensors" in json.loads(report)["inputs"]["far"]
    assert str(tmp_path / "cache") not in report
    assert not s3.of("optimizer.pt")


def test_an_object_that_is_replaced_while_the_job_runs_ends_it(
    tmp_path: Path, made: Cluster, worker: Process, s3: S3, gate: Gate
) -> None:
    gate.hold("start")
    job = made.submit(SPEC)
    gate.wait_for("start")
    s3.put_bytes("run/ckpts/epoch-2.safetensors", (tmp_path / "run/ckpts/epoch-1.safetensors").read_bytes())
    gate.open("start")
    record = made.finish(job)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.INPUTS_CHANGED), record
    assert "`s3://bucket/run/ckpts/epoch-2.safetensors` was replaced" in (record.message or "")
    assert not (tmp_path / "results" / "out").exists()


@pytest.mark.parametrize("address", ["s3://bucket/other", "s3://bucket/running", "http://169.254.169.254/latest"])
def test_an_address_outside_the_roots_is_refused_by_the_worker_too(
    made: Cluster, worker: Process, s3: S3, address: str
) -> None:
    s3.requests.clear()
    record = made.finish(made.submit(SPEC.model_copy(update={"ckpt_dir": address})))
    assert (record.state, record.reason) == (JobState.FAILED, Reason.PATH_NOT_ALLOWED), record
    assert address in (record.message or "")
    assert not s3.requests


def test_a_job_that_is_fetching_can_be_cancelled(made: Cluster, worker: Process, s3: S3) -> None:
    waiting: list[str] = []

    def stuck(method: str, path: str) -> str | None:
        if ".safetensors" in path and method == "GET":
            waiting.append(path)
            return "503"
        return None

    s3.fault = stuck
    job = made.submit(SPEC)
    until(lambda: waiting, what="the fetching to begin")
    made.call(made.store.cancel(job))
    record = made.finish(job)
    assert record.state == JobState.CANCELLED, record


def test_wrong_credentials_end_the_job_with_one_line(made: Cluster, worker: Process, s3: S3) -> None:
    s3.fault = lambda method, path: "InvalidAccessKeyId"
    record = made.finish(made.submit(SPEC))
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, Reason.UNREADABLE_INPUT, 1), record
    assert "does not know them" in (record.message or "")


def test_a_service_inspects_far_folders(tmp_path: Path, s3: S3) -> None:
    roots = {"ROOTS": "s3://bucket/run"}
    with api_stack(tmp_path / "stack", **roots) as stack, stack.client() as client:
        folder = stack.folder
        worker = gated_worker(folder, stack.server, folder, FAR_CACHE=str(tmp_path / "cache"))
        worker.environment = {**worker.environment, "LADLE_ROOTS": "s3://bucket/run"}
        with running(worker):
            until(client.methods, what="the worker to register")
            found = client.inspect("s3://bucket/run/ckpts")
        assert found.usable, found.problems
        assert (found.folder, len(found.checkpoints)) == ("s3://bucket/run/ckpts", 4)
        with pytest.raises(InvalidSpec, match="below an allowed one"):
            client.inspect("s3://bucket/other")


def test_a_curve_takes_up_an_earlier_one_from_an_address(
    tmp_path: Path, made: Cluster, worker: Process, s3: S3
) -> None:
    def finished(name: str, earlier: str | None) -> JobRecord:
        curve = CurveChoice(earlier=earlier)
        spec = SPEC.model_copy(update={"kind": "curve", "curve": curve, "output": Output(name=name)})
        return made.finish(made.submit(spec.model_copy(update={"method": MethodChoice()})))

    assert finished("curve-1", None).state == JobState.SUCCEEDED
    s3.put(tmp_path / "results" / "curve-1", "run/curve-1")
    second = finished("curve-2", "s3://bucket/run/curve-1")
    assert second.state == JobState.SUCCEEDED, second
    evaluated = json.loads((tmp_path / "results" / "curve-2" / "report.json").read_text())["evaluated"]
    assert evaluated["earlier"] == {"folder": "s3://bucket/run/curve-1", "models": evaluated["models"]}
    no_curve = finished("curve-3", "s3://bucket/run/ckpts")
    assert (no_curve.state, no_curve.reason) == (JobState.FAILED, Reason.INVALID_DATA)
    assert "`curve.earlier` must be the result folder of a curve, but `s3://bucket/run/ckpts`" in (
        no_curve.message or ""
    )


def test_ladle_run_takes_addresses(tmp_path: Path, s3: S3) -> None:
    done = ladle(
        None, "run", "s3://bucket/run/ckpts", "s3://bucket/run/val.npz", "--name", "out", "--results",
        str(tmp_path / "results"), "--method", "twa", "--method-option", "steps=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "out" / "model.safetensors").exists()
    assert (tmp_path / "cache" / "ladle" / "far" / "mirror" / "s3" / "bucket" / "run").is_dir()
