"""Several ranks do on four examples what one process does; with BatchNorm each must have one to fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ladle_engine.placements.base import REPLICATED
from tests.distributed import small_sets_rank
from tests.distributed.small_sets_rank import JOBS, METHODS, NETS
from tests.distributed.start import run_module
from tests.unit.engine.toy import write_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("small")
    for name, net in NETS.items():
        write_checkpoints(made / name, net, count=3)
    small_sets_rank.make_sets(made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, float]]:
    return {f"{net} {count}": small_sets_rank.run(folder, net, count, REPLICATED, ranks=1) for net, count, _ in JOBS}


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_find_on_a_few_examples_what_one_process_finds(
    folder: Path, alone: dict[str, dict[str, float]], ranks: int
) -> None:
    run_module("tests.distributed.small_sets_rank", ranks, str(folder))
    found = [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    assert all(other == found[0] for other in found), "every rank judges the same"
    for job, scores in found[0].items():
        if job == "norm 4" and ranks == 3:
            assert "an example to fit for each of 3 ranks, because the model has BatchNorm, but there are 2" in scores
        else:
            assert scores.keys() == {"best", *METHODS}
            assert scores == pytest.approx(alone[job], rel=1e-4), job
