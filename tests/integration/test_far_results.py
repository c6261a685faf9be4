"""Results that are uploaded, through the real stack: whole or, to whoever looks for the marker, not at all."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load

from ladle_contracts import JobRecord, JobSpec, JobState, MethodChoice, Output, Reason
from ladle_service import scheduler
from tests.builders import make_checkpoints, make_val_set
from tests.far_servers import S3, s3_server, use_s3
from tests.integration.life import Cluster, Gate, cluster
from tests.integration.test_command import ladle
from tests.polling import until
from tests.servers import gated_worker, redis_server, running

pytestmark = pytest.mark.slow


@dataclass
class Uploading:
    """A node that uploads to `s3://bucket/results`, and whose agents can be held."""

    folder: Path
    made: Cluster
    s3: S3
    gate: Gate

    def submit(self, name: str) -> str:
        return self.made.submit(
            JobSpec(
                ckpt_dir=str(self.folder / "data/checkpoints"),
                val_set=str(self.folder / "data/val.npz"),
                method=MethodChoice(name="uniform"),
                output=Output(name=name),
            )
        )

    def submit_held(self, name: str, point: str) -> tuple[str, int]:
        """The job, and the process of its agent, which is at the point."""
        self.gate.hold(f"{name}.{point}")
        job = self.submit(name)
        agent = self.gate.wait_for(f"{name}.{point}")
        self.gate.let_pass(f"{name}.{point}")
        return job, agent

    def found(self, name: str) -> dict[str, int]:
        listed = self.s3.client().list_objects_v2(Bucket="bucket", Prefix=f"results/{name}/")
        return {each["Key"].removeprefix(f"results/{name}/"): each["Size"] for each in listed.get("Contents", [])}

    def report(self, name: str) -> dict[str, object]:
        report: dict[str, object] = json.loads(self.s3.get(f"results/{name}/report.json"))
        return report

    def assert_whole(self, record: JobRecord, name: str) -> None:
        assert record.state == JobState.SUCCEEDED, record
        assert record.result is not None
        assert record.result.folder == f"s3://bucket/results/{name}"
        assert self.found(name) == record.result.files
        assert load(self.s3.get(f"results/{name}/model.safetensors"))

    def wait_until_clean(self, job: str, name: str) -> None:
        results = self.folder / "results"
        until(
            lambda: not list(results.glob(f".ladle-{job}-*")) and not (results / ".ladle" / job).exists(),
            what="the job's files to go",
        )
        # The agent and the sweep may both withdraw it: the second one's marker goes last.
        until(lambda: not self.found(name), what="the upload to go")


@pytest.fixture(scope="module")
def uploading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploading]:
    folder = tmp_path_factory.mktemp("uploading")
    make_checkpoints(folder / "data/checkpoints")
    make_val_set(folder / "data/val.npz")
    with pytest.MonkeyPatch.context() as patch, s3_server() as s3, redis_server(folder) as server:
        patch.setattr(scheduler, "CLAIM_MS", 1500)
        environment = use_s3(s3, patch)
        next(environment)
        worker = gated_worker(folder, server, folder / "data", RESULTS_URL="s3://bucket/results", SWEEP_S="1")
        worker.arguments[-1] = "tests.integration.gated_worker"
        with cluster(server) as made, running(worker):
            until(lambda: made.call(made.store.nodes()), what="the node to register")
            yield Uploading(folder, made, s3, Gate(folder / "results/gates"))


@pytest.fixture(autouse=True)
def no_faults(uploading: Uploading) -> Iterator[None]:
    yield
    uploading.s3.fault = lambda method, path: None


def test_a_result_is_uploaded_through_faults_and_its_name_is_taken_then(uploading: Uploading) -> None:
    failed: set[str] = set()

    def once(method: str, path: str) -> str | None:
        if method not in ("PUT", "DELETE") or path in failed:
            return None
        failed.add(path)
        return "drop" if len(failed) % 2 else "503"

    uploading.s3.fault = once
    record = uploading.made.finish(uploading.submit("faults"))
    assert any("report.json" in path for path in failed)
    uploading.assert_whole(record, "faults")
    assert not (uploading.folder / "results/faults").exists()
    assert "upload" in [each.body.stage for each in uploading.made.events(record.id) if each.body.kind == "stage"]
    again = uploading.made.finish(uploading.submit("faults"))
    assert (again.state, again.reason) == (JobState.FAILED, Reason.OUTPUT_EXISTS), again
    assert "`s3://bucket/results/faults` exists" in (again.message or "")
    uploading.assert_whole(record, "faults")


def test_a_job_that_is_cancelled_after_its_upload_leaves_nothing(uploading: Uploading) -> None:
    job, _ = uploading.submit_held("cancelled", "finalize")
    there = uploading.found("cancelled")
    assert "model.safetensors" in there
    assert "report.json" not in there
    assert [name for name in there if name.startswith(".ladle-upload-")]
    uploading.made.call(uploading.made.store.cancel(job))
    uploading.gate.open("cancelled.finalize")
    assert uploading.made.finish(job).state == JobState.CANCELLED
    uploading.wait_until_clean(job, "cancelled")


def test_a_file_that_is_replaced_before_the_end_ends_the_job(uploading: Uploading) -> None:
    job, _ = uploading.submit_held("replaced", "finalize")
    uploading.s3.put_bytes("results/replaced/model.safetensors", b"another")
    uploading.gate.open("replaced.finalize")
    record = uploading.made.finish(job)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.RESULTS_UNWRITABLE), record
    assert "somebody has replaced it" in (record.message or "")
    uploading.wait_until_clean(job, "replaced")


@pytest.mark.parametrize("point", ["finalize", "end"])
def test_the_attempt_after_a_killed_agent_replaces_half_a_result_and_adopts_a_whole_one(
    uploading: Uploading, point: str
) -> None:
    name = f"killed-{point}"
    job, agent = uploading.submit_held(name, point)
    os.kill(agent, signal.SIGKILL)
    record = uploading.made.finish(job)
    # An attempt that a slow machine claims too late counts too.
    assert record.attempt > 1
    uploading.assert_whole(record, name)
    attempt = "1" if point == "end" else str(record.attempt)
    assert uploading.report(name)["provenance"] == {"job_id": job, "attempt": attempt}


def test_who_may_not_write_is_told_so_in_one_line(uploading: Uploading) -> None:
    uploading.s3.fault = lambda method, path: "AccessDenied" if method == "PUT" else None
    record = uploading.made.finish(uploading.submit("denied"))
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, Reason.RESULTS_UNWRITABLE, 1), record
    assert "must be writable with the operator's credentials" in (record.message or "")
    assert "secret" not in (record.message or "")


def test_ladle_run_uploads(uploading: Uploading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = uploading.folder / "data"
    done = ladle(
        None, "run", str(data / "checkpoints"), str(data / "val.npz"), "--name", "ran", "--results",
        "s3://bucket/results", "--method", "uniform",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3://bucket/results/ran" in done.stdout
    assert "report.json" in uploading.found("ran")
