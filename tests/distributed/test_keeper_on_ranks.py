"""Ranks that train together keep each checkpoint once, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.start import run_module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_only_rank_0_writes_and_what_it_writes_is_the_whole_model(tmp_path: Path, kind: str) -> None:
    run_module("tests.distributed.keeper_rank", 2, str(tmp_path), kind)
    assert sorted(path.name for path in (tmp_path / "rank-0").iterdir()) == [f"checkpoint-{step}" for step in (3, 6, 9)]
    assert not (tmp_path / "rank-1").exists()
    kept = load_file(tmp_path / "rank-0/checkpoint-9/model.safetensors")
    last = torch.load(tmp_path / "last.pt")
    assert kept.keys() == {"0.weight", "0.bias", "2.weight"} == last.keys()
    assert all(torch.equal(kept[name], last[name]) for name in kept)


@pytest.mark.slow
def test_ranks_of_a_trainer_wait_for_the_average_together(tmp_path: Path) -> None:
    run_module("tests.distributed.keeper_rank", 2, str(tmp_path), "trainer")
    assert (tmp_path / "rank-0.txt").read_text() == "1 True True"
    assert (tmp_path / "rank-1.txt").read_text() == "0 True True", "rank 1 asks for nothing, and waits"
    kept = load_file(tmp_path / "run/ladle/checkpoints/checkpoint-8/model.safetensors")
    last = torch.load(tmp_path / "last.pt")
    assert all(torch.equal(value, last[name]) for name, value in kept.items())
