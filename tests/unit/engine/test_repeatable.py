"""torch's switches around a job on a GPU: they exist without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ladle_engine import average
from ladle_engine.repeatable import repeatable
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

GPU, CPU = torch.device("cuda"), torch.device("cpu")
EXACT = (True, False, "ieee", "ieee", "ieee")


def switches() -> tuple[bool, bool, str, str, str]:
    backends = torch.backends
    return (
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision,
    )


@pytest.fixture(autouse=True)
def left_as_they_were() -> Iterator[None]:
    before = switches()
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[:2]
    torch.backends.cuda.matmul.fp32_precision = before[2]
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision = before[3:]


def test_a_gpu_computes_float32_exactly_and_the_same_way_every_time() -> None:
    with repeatable(GPU):
        assert switches() == EXACT


def test_afterwards_everything_is_as_it_was_before() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    before = switches()
    with repeatable(GPU):
        pass
    assert switches() == before


def test_also_after_an_error() -> None:
    before = switches()
    with pytest.raises(RuntimeError, match="out of luck"), repeatable(GPU):
        raise RuntimeError("out of luck")
    assert switches() == before


def test_the_older_switches_can_be_read_again_afterwards() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with repeatable(GPU):
        pass
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_a_cpu_is_left_alone() -> None:
    before = switches()
    with repeatable(CPU):
        assert switches() == before


def test_a_whole_job_runs_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    class Spy(ToyTask):
        def loss(self, *arguments: object) -> torch.Tensor:
            seen.add(switches())
            return super().loss(*arguments)

        def evaluate(self, *arguments: object) -> object:
            seen.add(switches())
            return super().evaluate(*arguments)

    monkeypatch.setattr(sys.modules["ladle_engine.average"], "repeatable", lambda device: repeatable(GPU))
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=Spy(plain_net), method="twa")
    assert seen == {EXACT}
