"""The method `search` through REST and the command, on two ranks, and after its ranks were killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from ladle_engine import average
from tests.builders import make_checkpoints, make_val_set
from tests.integration.api_stack import Stack, api_stack
from tests.integration.test_command import ladle
from tests.polling import DEADLINE_S, until
from tests.servers import running, worker_process

pytestmark = pytest.mark.slow
METRIC = "macro-f1"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With a worker that has registered."""
    folder = tmp_path_factory.mktemp("search")
    data = folder / "data"
    with api_stack(folder) as made, running(worker_process(folder, made.server, data)), made.client() as asking:
        make_checkpoints(data / "run")
        make_val_set(data / "val.npz")
        until(lambda: asking.methods(), what="the worker to register")
        yield made


def of_the_library(stack: Stack, output: Path, options: dict[str, Any]) -> dict[str, float]:
    data = stack.folder / "data"
    own = average(data / "run", data / "val.npz", output=output, method="search", method_options=options, metric=METRIC)
    (score,) = (each for each in own.candidates if each.method == "search")
    return dict(score.select)


def test_rest_and_the_command_come_to_what_the_library_does(stack: Stack, tmp_path: Path) -> None:
    options = {"over": "profile", "budget": 20.0}
    expected = of_the_library(stack, tmp_path / "own", options)
    data = stack.folder / "data"
    body: dict[str, Any] = {
        "ckpt_dir": str(data / "run"), "val_set": str(data / "val.npz"), "metric": METRIC,
        "method": {"name": "search", "options": options}, "resources": {"ranks_per_node": 2},
    }  # fmt: skip
    with httpx2.Client(base_url=stack.url) as plain, stack.client() as client:
        (listed,) = (each for each in plain.get("/v1/methods").json()["methods"] if each["name"] == "search")
        assert {"over", "budget", "share"} <= {each["name"] for each in listed["options"]}
        answer = plain.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        by_rest = client.job(answer.json()["id"]).result(timeout=DEADLINE_S)
    (score,) = (each for each in by_rest.candidates if each.method == "search")
    assert score.select == pytest.approx(expected, rel=1e-5)
    done = ladle(
        stack, "submit", body["ckpt_dir"], body["val_set"], "--watch", "--json", "--metric", METRIC,
        "--method", "search", "--method-option", "over=profile", "--method-option", "budget=20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = (each for each in json.loads(done.stdout.splitlines()[-1])["candidates"] if each["method"] == "search")
    assert row["select"] == pytest.approx(expected, rel=1e-5)
    report = (Path(by_rest.folder) / "report.html").read_text()
    assert "search (profile, generation" in report


def test_a_search_whose_ranks_are_killed_goes_on_and_finds_the_same(stack: Stack, tmp_path: Path) -> None:
    options = {"budget": 400.0}
    expected = of_the_library(stack, tmp_path / "own", options)
    data = stack.folder / "data"
    with stack.client() as client:
        job = client.submit(
            data / "run", data / "val.npz", metric=METRIC, method={"name": "search", "options": options}
        )
        until(lambda: list(stack.folder.rglob(f"{job.id}/state/*/train-search.pt")), what="a generation to be saved")
        ranks = [
            each
            for each in psutil.Process().children(recursive=True)
            if "ladle_worker.rank" in " ".join(each.cmdline()) and job.id in " ".join(each.cmdline())
        ]
        assert ranks, "it is at work"
        for each in ranks:
            each.kill()
        result = job.result(timeout=DEADLINE_S)
        attempts = job.status().attempt
    assert attempts >= 2
    (score,) = (each for each in result.candidates if each.method == "search")
    assert score.select == pytest.approx(expected, rel=1e-5)
