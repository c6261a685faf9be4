"""The client, the service and a real worker: a job that succeeds, and one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle import InvalidSpec, JobFailed
from ladle_contracts import CandidateScored, MemoryPlanned, Reason
from ladle_engine import METHODS
from tests.builders import make_base, make_checkpoints, make_val_set, quick_options
from tests.integration.api_stack import Stack, api_stack
from tests.polling import DEADLINE_S, until
from tests.servers import running, worker_process


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With a worker that has registered."""
    folder = tmp_path_factory.mktemp("whole")
    with (
        api_stack(folder) as made,
        running(worker_process(folder, made.server, folder / "data")),
        made.client() as asking,
    ):
        made_there = make_checkpoints(folder / "data" / "good")
        make_base(folder / "data" / "base.safetensors", made_there / "epoch-1.safetensors")
        make_val_set(folder / "data" / "val.npz")
        until(lambda: asking.methods(), what="the worker to register")
        yield made


def test_a_folder_of_checkpoints_becomes_a_model(stack: Stack) -> None:
    data = stack.folder / "data"
    with stack.client() as client:
        some = {"exclude": "epoch-1.*", "order": "name"}
        job = client.submit(
            data / "good", data / "val.npz", method="uniform", task="small-cnn", output="averaged", checkpoints=some
        )
        scored = {event.body.candidate.method for event in job.events() if isinstance(event.body, CandidateScored)}
        result = job.result(timeout=DEADLINE_S)
        assert Path(result.folder, "model.safetensors").is_file()
        assert {"best", "uniform"} <= scored
        assert result.num_checkpoints == 3, "one of four is excluded"
        with pytest.raises(InvalidSpec, match="Did you mean `uniform`"):
            client.submit(data / "good", data / "val.npz", method="unifrom")


def test_every_method_runs_by_name(stack: Stack) -> None:
    """One job with all of them, then one on two ranks that share the directions as int8."""
    data = stack.folder / "data"
    options = quick_options(4, steps=4)
    with stack.client() as client:
        assert {info.name for info in client.methods()} == {"auto", *METHODS}
        job = client.submit(
            data / "good",
            data / "val.npz",
            method={"name": "auto", "options": {"methods": list(METHODS), "options": options}},
            task="small-cnn",
            base=data / "base.safetensors",
        )
        result = job.result(timeout=DEADLINE_S)
        assert [candidate.method for candidate in result.candidates] == list(METHODS)
        assert Path(result.folder).name == f"good-auto-{job.id[:10]}", "it says what it is"
        job = client.submit(
            data / "good",
            data / "val.npz",
            method={"name": "twa-gram-schmidt", "options": options["twa-gram-schmidt"]},
            task="small-cnn",
            resources={"ranks_per_node": 2, "placement": "by-parameter", "precision": "int8"},
        )
        planned = [event.body for event in job.events() if isinstance(event.body, MemoryPlanned)]
        assert [(plan.placement, plan.precision) for plan in planned] == [("by-parameter", "int8")]
        assert "twa-gram-schmidt" in {candidate.method for candidate in job.result(timeout=DEADLINE_S).candidates}
        with pytest.raises(JobFailed, match="with a single rank") as caught:
            client.submit(
                data / "good", data / "val.npz", task="small-cnn", resources={"placement": "sharded-model"}
            ).result(timeout=DEADLINE_S)
        assert caught.value.reason is Reason.INVALID_PLACEMENT


def test_a_job_with_a_broken_checkpoint_fails_with_reason_and_log(stack: Stack) -> None:
    data = stack.folder / "data"
    broken = sorted(make_checkpoints(data / "bad").rglob("*.safetensors"))[1]
    broken.write_bytes(broken.read_bytes()[:-1000])
    with stack.client() as client, pytest.raises(JobFailed, match=broken.name) as caught:
        client.submit(data / "bad", data / "val.npz", task="small-cnn").result(timeout=DEADLINE_S)
    assert caught.value.reason is Reason.CORRUPT_CHECKPOINT
    assert caught.value.log_tail
    assert str(caught.value).count("as if it were truncated") == 1, "the log's line that says the same is not repeated"
