"""A search chooses on 2 and 4 ranks what it chooses in one process, and the ranks share its candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_engine.placements.base import REPLICATED
from tests.distributed import search_rank
from tests.distributed.search_rank import JOBS, NETS
from tests.distributed.start import run_module
from tests.unit.engine.toy import write_checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("search")
    for name, net in NETS.items():
        write_checkpoints(made / name, net)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, Any]]:
    return {job: search_rank.run(folder, job, ranks=1) for job in JOBS}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_find_what_one_process_finds(folder: Path, alone: dict[str, dict[str, Any]], ranks: int) -> None:
    run_module("tests.distributed.search_rank", ranks, str(folder))
    found = [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    for job in JOBS:
        counts = [each[job].pop("alone") for each in found]
        assert all(each[job] == found[0][job] for each in found), "every rank knows the same"
        assert found[0][job]["label"] == alone[job]["label"], job
        assert found[0][job]["select"] == pytest.approx(alone[job]["select"], rel=1e-5), job
        own, others = (torch.tensor(search_rank.chosen(folder, job, each)) for each in (1, ranks))
        torch.testing.assert_close(others, own, rtol=0, atol=1e-5)
        if JOBS[job][1] == REPLICATED:
            assert min(counts) > 0, f"{job}: every rank evaluates whole candidates"
        else:
            assert max(counts) == 0, f"{job}: no rank places a model by itself"
