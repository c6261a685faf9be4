"""Averages of LoRA adapters are the same on two ranks as in one process, in every placement that takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.adapters_rank import PLACEMENTS, run
from tests.distributed.start import run_module
from tests.unit.engine.lora import make_sweep, make_tokens

pytestmark = pytest.mark.slow


def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    make_sweep(tmp_path, {"a": {"r": 2}, "b": {"r": 4}, "c": {"r": 3}}, size=0.05)
    make_tokens(tmp_path / "val.npy")
    alone = run(tmp_path, "replicated", ranks=1)
    run_module("tests.distributed.adapters_rank", 2, str(tmp_path))
    found = [json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1], "every rank judges the same"
    assert set(found[0]) == set(PLACEMENTS)
    for placement, scores in found[0].items():
        assert scores == pytest.approx(alone, rel=1e-5), placement
