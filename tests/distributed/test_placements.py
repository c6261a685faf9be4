"""Every placement on 1, 2 and 4 real ranks trains the coefficients that one process trains, and takes up others'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.placements.base import PLACEMENTS, REPLICATED
from tests.distributed import placement_rank
from tests.distributed.placement_rank import AGAIN, LEFT
from tests.distributed.start import run_module
from tests.unit.engine.toy import TiedNet, norm_net, plain_net, write_checkpoints

LEFT_OUT = {1: {"sharded-model", "by-node"}, 2: {"by-node"}, 4: set[str]()}
"""Placements that cannot work on so many ranks (of this test: two a node)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("placements")
    write_checkpoints(made / "plain", plain_net, count=5)
    write_checkpoints(made / "tied", TiedNet, count=5)
    write_checkpoints(made / "norm", norm_net, count=5)
    write_checkpoints(made / "two", plain_net, count=2)
    placement_rank.die(made, REPLICATED, SingleProcess())
    return made


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Tensor]:
    alone = placement_rank.alone(folder)
    for name, weights_KG in alone.items():
        K = len(weights_KG)
        assert (weights_KG - 1 / K).abs().max() > 0.02, f"{name} must have gone somewhere"
    return alone


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a start of several ranks ended with, the same on each."""

    trained: dict[str, Tensor]
    """Case and placement -> float64 K x G."""
    resumed: dict[str, Tensor]
    """Who saved it, where, and the placement that it went on in -> the same."""
    steps: dict[str, int]
    """The same -> steps trained after resuming."""


def start(folder: Path, ranks: int, name: str) -> Said:
    run_module("tests.distributed.placement_rank", ranks, str(folder), name)
    first, *others = (Said(**torch.load(folder / f"{name}-{rank}.pt")) for rank in range(ranks))
    for other in others:
        assert other.steps == first.steps
        for one, its in ((first.trained, other.trained), (first.resumed, other.resumed)):
            for key, weights_KG in one.items():
                assert torch.equal(weights_KG, its[key]), f"the ranks differ: {key}"
    return first


# One start after the other, each of which leaves states that later ones take up.


@pytest.fixture(scope="module")
def ranks_1(folder: Path) -> Said:
    return start(folder, 1, "1")


@pytest.fixture(scope="module")
def ranks_2(folder: Path, ranks_1: Said) -> Said:
    return start(folder, 2, "2")


@pytest.fixture(scope="module")
def ranks_4(folder: Path, ranks_2: Said) -> Said:
    return start(folder, 4, "4")


@pytest.fixture(scope="module")
def ranks_2_again(folder: Path, ranks_4: Said) -> Said:
    return start(folder, 2, AGAIN)


def far(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, str]:
    """What is further than rounding from what is wanted."""
    apart = {key: float((weights_KG - wanted[key]).abs().max()) for key, weights_KG in found.items()}
    return {key: f"{worst:.1e}" for key, worst in apart.items() if worst > 1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_placement_trains_what_one_process_trains(
    request: pytest.FixtureRequest, expected: dict[str, Tensor], ranks: int
) -> None:
    trained = request.getfixturevalue(f"ranks_{ranks}").trained
    assert {key.rpartition("/")[2] for key in trained} == set(PLACEMENTS) - LEFT_OUT[ranks]
    assert not far(trained, {key: expected[key.rpartition("/")[0]] for key in trained})


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_going_on_with_as_many_ranks_in_the_same_placement_is_bit_identical(
    request: pytest.FixtureRequest, ranks: int
) -> None:
    said = request.getfixturevalue(f"ranks_{ranks}")
    for placement in set(PLACEMENTS) - LEFT_OUT[ranks]:
        key = f"{ranks} {placement}/{placement}"
        assert said.steps[key] == LEFT
        assert torch.equal(said.resumed[key], said.trained[f"plain/{placement}"]), placement


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "saved_by"),
    [("1", {"1"}), ("2", {"1", "2"}), ("4", {"1", "2", "4"}), ("2_again", {"4"})],
    ids=["1", "2", "4", "2 from 4"],
)
def test_what_others_saved_in_another_placement_is_taken_up(
    request: pytest.FixtureRequest, expected: dict[str, Tensor], ranks: str, saved_by: set[str]
) -> None:
    said = request.getfixturevalue(f"ranks_{ranks}")
    assert {key.split()[0] for key in said.resumed} == saved_by
    assert set(said.steps.values()) == {LEFT}
    assert not far(said.resumed, dict.fromkeys(said.resumed, expected["plain"]))


@pytest.mark.slow
@pytest.mark.usefixtures("ranks_4")
def test_one_process_takes_up_what_ranks_saved_and_its_own_bit_for_bit(
    folder: Path, expected: dict[str, Tensor]
) -> None:
    saved = {path.name for path in (folder / "states").iterdir()}
    assert {f"{ranks} {placement}" for ranks in (2, 4) for placement in set(PLACEMENTS) - LEFT_OUT[ranks]} <= saved
    runs = {state: placement_rank.go_on(folder, state, REPLICATED, SingleProcess()) for state in saved}
    assert {run.steps for run in runs.values()} == {LEFT}
    assert torch.equal(runs["1 replicated"].weights_KG, expected["plain"])
    assert not far({state: run.weights_KG for state, run in runs.items()}, dict.fromkeys(saved, expected["plain"]))
