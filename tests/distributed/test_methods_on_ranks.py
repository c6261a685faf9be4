"""Every trained method, with every way to train it, chooses on 2 and 4 ranks what it chooses in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ladle_engine.placements.base import REPLICATED
from tests.builders import make_base
from tests.distributed import methods_rank
from tests.distributed.methods_rank import JOBS, PLACED
from tests.distributed.start import run_module
from tests.unit.engine.toy import plain_net, write_checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("methods")
    write_checkpoints(made / "checkpoints", plain_net)
    make_base(made / "base.safetensors", made / "checkpoints" / "step-0.safetensors")
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Job -> method -> what one process chooses."""
    found = {}
    for job in JOBS:
        methods_rank.run(folder, job, REPLICATED, ranks=1)
        found[job] = methods_rank.chosen(folder, job, REPLICATED, ranks=1)
    return found


def test_every_method_goes_somewhere(alone: dict[str, dict[str, Tensor]]) -> None:
    for job, methods in alone.items():
        for method, chosen in methods.items():
            if method == "random" or job == "with a base":
                continue  # Its directions move, not its checkpoints' weights.
            start = methods.get("greedy-soup", torch.tensor(0.2)) if method != "random directions" else 0.0
            assert method == "greedy-soup" or (chosen - start).abs().max() > 0.01, (job, method)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_choose_what_one_process_chooses(folder: Path, alone: dict[str, dict[str, Tensor]], ranks: int) -> None:
    run_module("tests.distributed.methods_rank", ranks, str(folder))
    scores = [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    assert all(other == scores[0] for other in scores), "every rank judges the same"
    far = {}
    for job, placements in PLACED[ranks].items():
        for placement in placements:
            found = methods_rank.chosen(folder, job, placement, ranks)
            assert set(found) == set(alone[job])
            for method, chosen in found.items():
                worst = float((chosen - alone[job][method]).abs().max())
                if worst > 1e-5:
                    far[f"{job}/{method}/{placement}"] = f"{worst:.1e}"
    assert not far
