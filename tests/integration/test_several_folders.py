"""Runs, globs and lists of folders through the real service and worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladle import JobFailed
from tests.builders import make_checkpoints, make_val_set
from tests.integration.api_stack import Stack, api_stack
from tests.polling import DEADLINE_S, until
from tests.servers import running, worker_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With a worker that has registered, and two runs of other weights."""
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "data"
    with api_stack(folder) as made, running(worker_process(folder, made.server, data)), made.client() as asking:
        for run in (0, 1):
            make_checkpoints(data / f"run-{run}" / "checkpoints")
            make_checkpoints(folder / "outside" / f"run-{run}")
        for file in sorted((data / "run-1" / "checkpoints").glob("*.safetensors")):
            moved = {name: tensor + 0.001 for name, tensor in load_file(file).items()}
            save_file(moved, file, metadata={"format": "pt"})
        make_val_set(data / "val.npz")
        until(lambda: asking.methods(), what="the worker to register")
        yield made


def test_a_folder_a_glob_and_a_list_of_runs_give_the_mean_of_all(stack: Stack) -> None:
    data = stack.folder / "data"
    files = sorted(data.glob("run-*/checkpoints/*.safetensors"))
    states = [load_file(file) for file in files]
    with stack.client() as client:
        given = [data, f"{data}/run-*", [data / "run-0", f"{data}/*-1/checkpoints"]]
        jobs = [client.submit(each, data / "val.npz", method="uniform") for each in given]  # type: ignore[arg-type]
        for job in jobs:
            result = Path(job.result(timeout=DEADLINE_S).folder)
            report = json.loads((result / "report.json").read_text())
            assert [each["name"] for each in report["checkpoints"]] == [str(file.relative_to(data)) for file in files]
            if report["winner"] == "uniform":
                averaged = load_file(result / "model.safetensors")
                for name, tensor in averaged.items():
                    assert torch.allclose(tensor, torch.stack([each[name] for each in states]).double().mean(0).float())


def test_a_glob_that_leads_outside_by_a_link_reads_nothing_there(stack: Stack) -> None:
    data = stack.folder / "data"
    (data / "away").symlink_to(stack.folder / "outside")
    with stack.client() as client:
        job = client.submit(f"{data}/away*/run-0", data / "val.npz", method="uniform")
        with pytest.raises(JobFailed) as caught:
            job.result(timeout=DEADLINE_S)
    assert caught.value.record.reason in ("path-not-allowed", "no-checkpoints")
