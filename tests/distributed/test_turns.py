"""Ranks that meet over each bucket take buckets in the order in which their gradients come, and all in the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.placements.base import REPLICATED
from tests.distributed import turns_rank
from tests.distributed.start import run_module
from tests.distributed.turns_rank import NETS, PLACEMENTS, Disordered
from tests.unit.engine.toy import write_checkpoints

RANKS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("turns")
    for name, net in NETS.items():
        write_checkpoints(made / name, net)
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank ended with."""
    run_module("tests.distributed.turns_rank", RANKS, str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_after_the_first_pass_gradients_wait_for_no_more_than_a_layer(
    found: list[dict[str, Any]], placement: str
) -> None:
    for rank in found:
        first, *later = rank[f"disordered/{placement}/most"]
        assert first > 10 * Disordered.LAYER, "nobody knows the order yet"
        assert max(later) <= Disordered.LAYER


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("net", NETS)
def test_the_coefficients_are_those_of_one_process(
    folder: Path, found: list[dict[str, Any]], net: str, placement: str
) -> None:
    alone = turns_rank.train(folder, net, REPLICATED, SingleProcess())
    assert (alone - 1 / len(alone)).abs().max() > 0.02, "it must have gone somewhere"
    for rank in found:
        assert torch.equal(rank[f"{net}/{placement}"], found[0][f"{net}/{placement}"])
    assert (found[0][f"{net}/{placement}"] - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("net", NETS)
def test_a_resumed_run_which_learns_the_order_anew_is_bit_identical(
    found: list[dict[str, Any]], net: str, placement: str
) -> None:
    assert torch.equal(found[0][f"{net}/{placement}/resumed"], found[0][f"{net}/{placement}"])
