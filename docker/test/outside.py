"""The user's side of the check: the Python client, on this machine, outside every container.

    python outside.py refused | run-job | check-result FOLDER CKPT_DIR | start-long-job | finish-long-job
                      | knows-job | start-gang-job | finish-gang-job

LADLE_URL and LADLE_TOKEN say where the service is. An AssertionError, or an exception of the client, is the failure.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from ladle import Client, InvalidSpec, Job, JobState, NotFound, Unauthorized
from ladle_contracts import JobRecord
from ladle_contracts.events import StageStarted, StepDone
from tests.polling import until

CHECKPOINTS, VAL_SET = "/data/digits/checkpoints", "/data/digits/val.npz"
OUTPUT = "from-outside"
LABELS = {"check": "stopped-worker"}
# Enough to stop the worker in the middle, few enough for a busy machine to end them soon.
LONG_STEPS = 500
GANG_STEPS, GANG_OUTPUT, GANG_LABELS = 300, "from-two-hosts", {"check": "lost-host"}


def refused() -> None:
    """Neither no token nor a wrong one gets anything; a path outside the roots is refused too."""
    with Client(token="0" * 64) as stranger, pytest.raises(Unauthorized):
        stranger.submit(CHECKPOINTS, VAL_SET)
    with Client() as client:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{client.address.base_url}/v1/jobs", timeout=10)  # noqa: S310  our own service
        with pytest.raises(InvalidSpec, match="path-not-allowed"):
            client.submit("/results", VAL_SET)


def run_job() -> None:
    """Submit, follow, result."""
    with Client() as client:
        [node] = client.nodes()
        assert node.alive, node
        job = client.submit(CHECKPOINTS, VAL_SET, output=OUTPUT)
        stages = {event.body.stage for event in job.events() if isinstance(event.body, StageStarted)}
        result = job.result(timeout=120)
        assert result.folder == f"/results/{OUTPUT}", result.folder
        assert result.gain >= 0, f"the result must be no worse than the best checkpoint, but its gain is {result.gain}"
        assert "write" in stages, f"events must tell of every stage, but tell of {sorted(stages)}"
        for candidate in result.candidates:
            print(f"          {candidate.label:32} select {candidate.select}")
        print(f"          {result.method} wins: {result.metric} {result.gain:+.4f}, in {result.duration_s:.1f} s")


def check_result(folder: Path, ckpt_dir: Path) -> None:
    """The model in `folder` is what its coefficients make of the original checkpoints, computed here."""
    import torch
    from safetensors.torch import load_file

    from ladle_engine import candidate_state

    model = load_file(folder / "model.safetensors")
    expected = candidate_state(folder / "coefficients.json", ckpt_dir)
    assert model.keys() == expected.keys(), f"tensors must be {sorted(expected)}, but are {sorted(model)}"
    different = [name for name in expected if not torch.equal(model[name], expected[name])]
    assert not different, f"these tensors are not what the coefficients say: {different}"
    report = json.loads((folder / "report.json").read_text())
    assert len(report["checkpoints"]) == len(list(ckpt_dir.glob("*.safetensors")))


def start_long_job() -> None:
    """Return in the middle of its training."""
    with Client() as client:
        method = {"name": "twa", "options": {"steps": LONG_STEPS}}
        job = client.submit(CHECKPOINTS, VAL_SET, method=method, labels=LABELS)
        until(lambda: is_training(job), timeout_s=600, what="a job in the middle of its training")


def is_training(job: Job) -> bool:
    record = job.status()
    assert record.state not in (JobState.FAILED, JobState.SUCCEEDED), f"the job was to run on, but is {record.state}"
    return record.progress.stage == "train" and record.progress.step > 0


def training_steps(job: Job, *, attempt: int) -> list[int]:
    """The steps that one attempt told of."""
    events = [event for event in job.events() if event.attempt == attempt]
    return [event.body.step for event in events if isinstance(event.body, StepDone) and event.body.stage == "train"]


def finish(client: Client, labels: dict[str, str], interrupted: str, steps: int) -> tuple[Job, JobRecord]:
    """The job with these labels succeeds after an attempt that was `interrupted`, from where it was."""
    [known] = client.jobs(labels=labels)
    job = client.job(known.id)
    record = job.wait(timeout=900)
    assert record.state is JobState.SUCCEEDED, f"the job must have succeeded, but {record.state}: {record.message}"
    assert record.attempt >= 2, f"it was {interrupted} too late: the job had ended"
    first, last = training_steps(job, attempt=1), training_steps(job, attempt=record.attempt)
    print(f"          {interrupted} at step {max(first)} of {steps}; attempt {record.attempt} began at {min(last)}")
    return job, record


def finish_long_job() -> None:
    """The job whose worker was stopped succeeds, and the stop did not count as its failure."""
    with Client() as client:
        job, record = finish(client, LABELS, "stopped", LONG_STEPS)
        assert record.failures == 0, f"a stop by the operator must be no failure, but counted as {record.failures}"
        job.delete()
        with pytest.raises(NotFound):
            # Another handle: this one remembers the record of a job that has ended.
            client.job(record.id).status()


def knows_job() -> None:
    """After a restore: the job that made a model is listed, with its events."""
    with Client() as client:
        [job] = [record for record in client.jobs() if record.spec.output.name == OUTPUT]
        assert job.state is JobState.SUCCEEDED, job
        assert any(isinstance(event.body, StageStarted) for event in client.job(job.id).events())


def start_gang_job() -> None:
    """A job over both hosts; return in the middle of its training, and print the hosts."""
    with Client() as client:
        until(lambda: sum(node.alive for node in client.nodes()) == 2, timeout_s=600, what="both nodes")
        job = client.submit(
            CHECKPOINTS,
            VAL_SET,
            method={"name": "twa", "options": {"steps": GANG_STEPS}},
            resources={"nodes": 2, "ranks_per_node": 1},
            output=GANG_OUTPUT,
            labels=GANG_LABELS,
        )
        until(lambda: is_training(job), timeout_s=600, what="a job in the middle of its training")
        print(*job.status().nodes)


def finish_gang_job() -> None:
    """The job that lost a host succeeds on both, from where it was."""
    with Client() as client:
        _, record = finish(client, GANG_LABELS, "killed", GANG_STEPS)
        assert len(record.nodes) == 2, record.nodes


COMMANDS: dict[str, Callable[..., None]] = {
    "refused": refused,
    "run-job": run_job,
    "check-result": check_result,
    "start-long-job": start_long_job,
    "finish-long-job": finish_long_job,
    "knows-job": knows_job,
    "start-gang-job": start_gang_job,
    "finish-gang-job": finish_gang_job,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*map(Path, sys.argv[2:]))
