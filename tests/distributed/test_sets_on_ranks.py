"""Several ranks find over several validation sets what one process finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ladle_engine.placements.base import REPLICATED
from tests.distributed import sets_rank
from tests.distributed.sets_rank import JOBS, METHODS, NETS, SETS
from tests.distributed.start import run_module
from tests.unit.engine.toy import write_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets")
    for name, net in NETS.items():
        write_checkpoints(made / name, net, count=4)
    for count in SETS.values():
        (made / str(count)).mkdir()
    return made


def test_two_ranks_judge_and_train_as_one(folder: Path) -> None:
    alone = {net: sets_rank.run(folder, net, REPLICATED, ranks=1) for net in NETS}
    run_module("tests.distributed.sets_rank", 2, str(folder))
    found = [json.loads((folder / f"2-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1], "every rank judges the same"
    assert found[0].keys() == {f"{net} {placement}" for net, placement in JOBS}
    for job, by_method in found[0].items():
        assert by_method.keys() == {"best", *METHODS}
        for method, losses in by_method.items():
            assert losses.keys() == {"", *SETS}
            assert losses == pytest.approx(alone[job.split()[0]][method], rel=1e-4), (job, method)
