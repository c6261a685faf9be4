"""Every placement on 1, 2 and 4 real ranks trains the coefficients that one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ladle_engine.collectives import SingleProcess
from ladle_engine.placements import PLACEMENTS, REPLICATED
from ladle_engine.state import ResumeState
from tests.distributed import placement_rank
from tests.unit.engine.toy import TiedNet, norm_net, plain_net, subspace_for, trainer_for, write_checkpoints

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("placements")
    write_checkpoints(made / "plain", plain_net, count=5)
    write_checkpoints(made / "tied", TiedNet, count=5)
    write_checkpoints(made / "norm", norm_net, count=5)
    write_checkpoints(made / "two", plain_net, count=2)
    save_half(made)
    return made


def save_half(folder: Path) -> None:
    """The state that one process leaves when it dies after half of the steps."""

    class Died(Exception):
        pass

    class StateThatDies(ResumeState):
        def save(self, key: str, value: object) -> None:
            super().save(key, value)  # type: ignore[arg-type]  # a test double with the same meaning
            if len(value["losses"]) == 6:  # type: ignore[index]  # as above
                raise Died

    case = placement_rank.CASES["plain"]
    checkpoints = placement_rank.discover(folder / case.folder)
    state = StateThatDies(folder / "half", "f", every_s=0.0)
    trainer = trainer_for(checkpoints, case.build, case.grouping, state=state)
    with pytest.raises(Died):
        trainer.train(subspace_for(checkpoints, trainer), case.settings)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Tensor]:
    alone = placement_rank.alone(folder)
    for name, weights_KG in alone.items():
        K = len(weights_KG)
        assert (weights_KG - 1 / K).abs().max() > 0.02, f"{name} must have gone somewhere"
    return alone


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_placement_trains_what_one_process_trains(folder: Path, expected: dict[str, Tensor], ranks: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *("-m", "tests.distributed.placement_rank", str(folder)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = [torch.load(folder / f"ranks-{ranks}-{rank}.pt") for rank in range(ranks)]
    placements = {key.rpartition("/")[2] for key in found[0]}
    assert placements == set(PLACEMENTS) - {1: {"sharded-model", "by-node"}, 2: {"by-node"}, 4: set()}[ranks]
    far = {}
    for key, weights_KG in found[0].items():
        name = key.rpartition("/")[0]
        for other in found[1:]:
            assert torch.equal(weights_KG, other[key]), f"the ranks differ: {key}"
        wanted = expected["plain" if name == "resumed" else name]
        worst = (weights_KG - wanted).abs().max()
        if worst > 1e-5:
            far[key] = f"{worst:.1e}"
    assert not far


def test_resuming_in_one_process_is_bit_identical(folder: Path, expected: dict[str, Tensor]) -> None:
    case = placement_rank.CASES["plain"]
    again = placement_rank.train(folder, case, REPLICATED, SingleProcess(), folder / "half")
    assert torch.equal(again, expected["plain"])
