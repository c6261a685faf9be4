"""Tensors that are left out of the average are the same on two ranks as in one process, in every placement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ladle_engine import candidate_state
from tests.distributed.left_out_rank import PLACEMENTS, jobs, run
from tests.distributed.start import run_module
from tests.unit.engine.test_left_out import other_heads
from tests.unit.engine.toy import norm_net, plain_net

pytestmark = pytest.mark.slow


def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    states = other_heads(tmp_path / "plain", plain_net)
    other_heads(tmp_path / "norm", norm_net)
    alone = {name: run(tmp_path, name, given, ranks=1) for name, given in jobs(1).items()}
    run_module("tests.distributed.left_out_rank", 2, str(tmp_path))
    found = [json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1], "every rank judges the same"
    for name, scores in found[0].items():
        expected = alone["norm" if name == "norm" else "plain replicated"]
        assert scores == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    mean = torch.stack([state["0.weight"].double() for state in states]).mean(dim=0).float()
    for ranks, placements in ((1, PLACEMENTS[:-1]), (2, PLACEMENTS)):
        for placement in placements:
            uniform = candidate_state(tmp_path / f"plain {placement} {ranks}", tmp_path / "plain", "uniform")
            assert torch.equal(uniform["0.weight"], mean)
            assert torch.equal(uniform["0.bias"], states[3]["0.bias"])
            assert torch.equal(uniform["2.weight"], states[2]["2.weight"])
    one, two = (load_file(tmp_path / f"norm {ranks}" / "model.safetensors") for ranks in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
