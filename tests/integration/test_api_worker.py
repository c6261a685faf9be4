"""The client, the service and a real worker: a job that succeeds, and one that fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ladle import InvalidSpec, JobFailed
from ladle_contracts import CandidateScored, MemoryPlanned, Reason, StepDone
from ladle_engine import METHODS
from tests.builders import make_base, make_checkpoints, make_val_set, quick_options
from tests.integration.api_stack import Stack, api_stack
from tests.integration.test_command import ladle
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


@pytest.mark.slow
def test_every_method_runs_by_name(stack: Stack) -> None:
    """One job with all of them, some from a start that is picked or near the base, then one on two ranks that share the
    directions as int8."""
    data = stack.folder / "data"
    options = quick_options(4, steps=4)
    options["twa"]["start"] = "auto"
    options["twa-layerwise"]["ramp"] = 0.5
    options["search"] = {"over": "groups", "population": 4, "budget": 8}
    options["extrapolate"] = {"away_from": "base", "share": 0.5}
    # A race may find that the base does not help, and leave it out.
    options["wise-ft"] = {"share": 0.5}
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
        report = json.loads(Path(result.folder, "report.json").read_text())
        rows = {row["method"]: row for row in report["candidates"]}
        of_base = {"model-stock", "wise-ft", "extrapolate", "twa-layerwise"}
        assert {name for name, row in rows.items() if "base_weights" in row} == of_base
        assert rows["twa-layerwise"]["base_weights"][0] == pytest.approx(0.5)
        assert report["details"]["twa"]["start"] in report["details"]["twa"]["fit_loss"]
        assert rows["search"]["label"].startswith("search (4 groups, ")
        winner = rows[result.method]
        assert (winner["gain_low"], winner["gain_high"]) == (result.gain_low, result.gain_high)
        average = rows["uniform"]
        assert average["single_high"] - average["single_low"] < average["gain_high"] - average["gain_low"]
        assert (report["choice"]["visible_gain"], report["choice"]["examples_needed"]) == (
            result.visible_gain, result.examples_needed,
        )  # fmt: skip
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


@pytest.mark.slow
def test_a_merge_curve_is_a_job_and_the_next_one_takes_what_it_knows(stack: Stack) -> None:
    data = stack.folder / "data"
    body = {"ckpt_dir": str(data / "good"), "val_set": str(data / "val.npz"), "kind": "curve"}
    with stack.client() as client, httpx2.Client(base_url=stack.url) as plain:
        answer = plain.post("/v1/jobs", json=body | {"checkpoints": {"exclude": "epoch-4.*"}})
        assert answer.status_code == 202, answer.text
        job = client.job(answer.json()["id"])
        bodies = (event.body for event in job.events())
        steps = {(body.stage, body.method, body.total) for body in bodies if isinstance(body, StepDone)}
        result = job.result(timeout=DEADLINE_S)
        assert ("evaluate", "profile", 3) in steps
        assert "Averag" in plain.get(f"/v1/jobs/{job.id}").json()["result"]["words"][0]
        assert {candidate.method for candidate in result.candidates} <= {"best", "profile"}
        assert "The merge curve" in Path(result.folder, "report.html").read_text()
        assert not Path(result.folder, "model.safetensors").exists(), "a curve writes no model"
        # The folder of results is not among the roots here.
        earlier = shutil.copytree(result.folder, data / "earlier")
        flags = ("--kind", "curve", "--curve-earlier", str(earlier), "--json", "--watch")
        grown = ladle(stack, "submit", body["ckpt_dir"], body["val_set"], *flags)
        assert grown.returncode == 0, grown.stderr
        report = json.loads(Path(json.loads(grown.stdout.splitlines()[-1])["folder"], "report.json").read_text())
        before = json.loads((earlier / "report.json").read_text())["evaluated"]["models"]
        assert len(report["merge_curve"]["points"]) == 4
        assert report["evaluated"]["earlier"]["models"] == before < report["evaluated"]["models"]
        with pytest.raises(InvalidSpec, match=r"`curve\.earlier`"):
            client.submit(data / "good", data / "val.npz", kind="curve", curve={"earlier": result.folder})


def test_a_job_with_a_broken_checkpoint_fails_with_reason_and_log(stack: Stack) -> None:
    data = stack.folder / "data"
    broken = sorted(make_checkpoints(data / "bad").rglob("*.safetensors"))[1]
    broken.write_bytes(broken.read_bytes()[:-1000])
    with stack.client() as client, pytest.raises(JobFailed, match=broken.name) as caught:
        client.submit(data / "bad", data / "val.npz", task="small-cnn").result(timeout=DEADLINE_S)
    assert caught.value.reason is Reason.CORRUPT_CHECKPOINT
    assert caught.value.log_tail
    assert str(caught.value).count("as if it were truncated") == 1, "the log's line that says the same is not repeated"
