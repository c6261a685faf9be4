"""Several validation sets, and training data without labels, through the real service and worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from ladle import InvalidSpec
from ladle_contracts import CandidateScored
from ladle_engine import average
from tests.builders import digits, make_checkpoints, make_val_set
from tests.integration.api_stack import Stack, api_stack
from tests.integration.test_command import ladle
from tests.polling import DEADLINE_S, until
from tests.servers import running, worker_process
from tests.unit.engine.test_validation_sets import make_noisy_set

pytestmark = pytest.mark.slow
OPTIONS = {"methods": ["uniform", "twa"], "options": {"twa": {"steps": 8}}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With a worker that has registered."""
    folder = tmp_path_factory.mktemp("sets")
    data = folder / "data"
    with api_stack(folder) as made, running(worker_process(folder, made.server, data)), made.client() as asking:
        make_checkpoints(data / "run")
        make_val_set(data / "clean.npz")
        make_noisy_set(data / "noisy=1.npz", count=200)
        np.savez(data / "unlabelled.npz", images=digits()[0][1000:].numpy())
        until(lambda: asking.methods(), what="the worker to register")
        yield made


def test_a_weighted_mean_on_two_ranks_is_the_librarys_on_one(stack: Stack, tmp_path: Path) -> None:
    data = stack.folder / "data"
    sets = {"clean": data / "clean.npz", "noisy": data / "noisy=1.npz"}
    judge_by = {"clean": 1, "noisy": 3}
    own = average(
        data / "run", sets, output=tmp_path / "own", judge_by=judge_by, no_set_worse=True, method_options=OPTIONS
    )
    with stack.client() as client:
        job = client.submit(
            data / "run", sets, judge_by=judge_by, no_set_worse=True, resources={"ranks_per_node": 2},
            method={"name": "auto", "options": OPTIONS},
        )  # fmt: skip
        scored = [event.body.candidate for event in job.events() if isinstance(event.body, CandidateScored)]
        result = job.result(timeout=DEADLINE_S)
    assert [candidate.method for candidate in result.candidates] == ["best", "uniform", "twa"]
    # Intervals on the way are of one comparison; those of the result count all candidates.
    assert [(each.method, each.select, each.gain) for each in scored] == [
        (each.method, each.select, each.gain) for each in result.candidates
    ]
    assert result.method == own.method
    for candidate, score in zip(result.candidates, own.candidates, strict=True):
        assert candidate.select == pytest.approx(score.select, rel=1e-5)
        assert list(candidate.sets) == ["clean", "noisy"]
        for name, on_set in candidate.sets.items():
            assert on_set.select == pytest.approx(score.sets[name].select, rel=1e-5)
            assert on_set.gain_low == pytest.approx(score.sets[name].gain_low, abs=1e-5)
    report = json.loads((Path(result.folder) / "report.json").read_text())
    assert {name: each["weight"] for name, each in report["validation_sets"].items()} == {"clean": 0.25, "noisy": 0.75}
    assert "## Validation sets" in (Path(result.folder) / "README.md").read_text()
    status = ladle(stack, "status", job.id).stdout
    assert f"validation set noisy  {data / 'noisy=1.npz'}" in status
    assert "noisy  uniform (4)" in ladle(stack, "result", job.id).stdout


def test_rest_and_the_command_take_sets_by_name(stack: Stack) -> None:
    data = stack.folder / "data"
    sets = {"clean": str(data / "clean.npz"), "noisy": str(data / "noisy=1.npz")}
    body = {
        "ckpt_dir": str(data / "run"), "val_set": sets, "judge_by": "mean", "method": {"name": "uniform"},
        "train_set": {"path": str(data / "unlabelled.npz"), "use": "entropy"},
    }  # fmt: skip
    with httpx2.Client(base_url=stack.url) as plain, stack.client() as client:
        answer = plain.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["spec"]["val_set"] == sets
        by_rest = client.job(answer.json()["id"]).result(timeout=DEADLINE_S)
        done = ladle(
            stack, "submit", body["ckpt_dir"], *(f"{name}={path}" for name, path in sets.items()), "--watch", "--json",
            "--judge-by", "mean", "--method", "uniform", "--train-set", str(data / "unlabelled.npz"),
            "--train-set-use", "entropy",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    by_command = json.loads(done.stdout.splitlines()[-1])
    assert by_command["candidates"] == json.loads(by_rest.model_dump_json())["candidates"]
    assert by_command["candidates"][1]["sets"].keys() == sets.keys()


def test_training_without_labels_comes_to_what_the_library_does(stack: Stack, tmp_path: Path) -> None:
    data = stack.folder / "data"
    method = {"name": "twa", "options": {"steps": 8}}
    with stack.client() as client:
        result = client.submit(
            data / "run", data / "clean.npz", method=method,
            train_set={"path": data / "unlabelled.npz", "use": "entropy"},
        ).result(timeout=DEADLINE_S)  # fmt: skip
    own = average(
        data / "run", data / "clean.npz", output=tmp_path / "own", method="twa", method_options=method["options"],  # type: ignore[arg-type]
        train_set=data / "unlabelled.npz", train_set_use="entropy",
    )  # fmt: skip
    assert result.candidates[1].select == pytest.approx(own.candidates[1].select, rel=1e-5)


def test_a_set_outside_of_the_roots_is_refused_by_its_name(stack: Stack, tmp_path: Path) -> None:
    data = stack.folder / "data"
    make_val_set(tmp_path / "secret.npz")
    (data / "link.npz").symlink_to(tmp_path / "secret.npz")
    with stack.client() as client, pytest.raises(InvalidSpec, match=r"`val_set\.far`") as caught:
        client.submit(data / "run", {"clean": data / "clean.npz", "far": data / "link.npz"})
    assert [error["field"] for error in caught.value.errors] == ["val_set.far"]
