"""A notebook's functions and data give two ranks what they give one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.functions_rank import jobs, run
from tests.distributed.start import run_module
from tests.unit.engine.toy import norm_net, plain_net, write_checkpoints

pytestmark = pytest.mark.slow


def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "plain", plain_net)
    write_checkpoints(tmp_path / "norm", norm_net)
    alone = {name: run(tmp_path, name, given, ranks=1) for name, given in jobs(0, 1).items()}
    run_module("tests.distributed.functions_rank", 2, str(tmp_path))
    found = [json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in range(2)]
    told = [each.pop("other data") for each in found]
    assert found[0] == found[1], "every rank judges the same"
    assert found[0].keys() == alone.keys()
    for job, methods in found[0].items():
        for method, scores in methods.items():
            assert scores == pytest.approx(alone[job][method], rel=1e-6, abs=1e-6), (job, method)
    assert all("Every rank must see the same files, settings and data" in message for message in told)
