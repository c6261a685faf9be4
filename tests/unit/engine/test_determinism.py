"""torch's switches around a job on a GPU: they exist without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ladle_engine import average
from ladle_engine.determinism import deterministic
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SAME_ALGORITHMS = (True, False)


def switches() -> tuple[bool, bool]:
    return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark


@pytest.fixture(autouse=True)
def quickest_algorithms() -> Iterator[None]:
    before = switches()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def test_a_gpu_takes_the_same_algorithms_every_time_and_afterwards_what_it_took_before() -> None:
    with deterministic(GPU):
        assert switches() == SAME_ALGORITHMS
    assert switches() == (False, True)


def test_also_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="out of luck"), deterministic(GPU):
        raise RuntimeError("out of luck")
    assert switches() == (False, True)


def test_a_cpu_is_left_alone() -> None:
    with deterministic(CPU):
        assert switches() == (False, True)


def test_a_whole_job_runs_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    class Spy(ToyTask):
        def loss(self, *arguments: object) -> torch.Tensor:
            seen.add(switches())
            return super().loss(*arguments)

        def evaluate(self, *arguments: object) -> object:
            seen.add(switches())
            return super().evaluate(*arguments)

    monkeypatch.setattr(sys.modules["ladle_engine.average"], "deterministic", lambda device: deterministic(GPU))
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=Spy(plain_net), method="twa")
    assert seen == {SAME_ALGORITHMS}
