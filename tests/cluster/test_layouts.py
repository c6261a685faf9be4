"""One job, over any number of hosts and ranks: the same coefficients, also when it was killed in the middle."""

from __future__ import annotations

import numpy as np
import pytest

from ladle_contracts import StepDone
from tests.cluster.network import Layout, Network, needs_hosts
from tests.integration.gang_jobs import ranks_of

pytestmark = needs_hosts

LAYOUTS = [Layout(nodes, ranks) for nodes in (1, 2, 3) for ranks in (1, 2)]
OFTEN = (Layout(1, 2), Layout(2), Layout(3, 2))


def name_of(layout: Layout) -> str:
    return f"{layout.nodes}x{layout.ranks}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_any_number_of_hosts_and_ranks_finds_what_one_rank_finds(layout: Layout, network: Network) -> None:
    alone, found = network.undisturbed(Layout(1)).coefficients, network.undisturbed(layout).coefficients
    assert found.keys() == alone.keys()
    for method, alpha in found.items():
        np.testing.assert_allclose(alpha, alone[method], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layout",
    [layout if layout in OFTEN else pytest.param(layout, marks=pytest.mark.long) for layout in LAYOUTS],
    ids=name_of,
)
def test_a_job_that_is_killed_in_the_middle_finds_the_same_to_the_last_bit(layout: Layout, network: Network) -> None:
    job = network.submit(layout, hold="train-17")
    job.wait_at("train-17")
    for rank in ranks_of(network.workers[job.record().nodes[-1]]):
        rank.kill()
    job.let_pass("train-17")
    ended = job.finish()
    job.assert_one_whole_result(ended)
    assert ended.attempt == 2
    bodies = [event.body for event in job.events() if event.attempt == 2]
    steps = [body.step for body in bodies if isinstance(body, StepDone) and body.stage == "train"]
    assert min(steps) > 10, "it went on where it was"


PLACEMENTS = ("replicated", "by-parameter", "by-node", "by-checkpoint", "sharded-model")
PLACED = [Layout(2, ranks, placement) for placement in PLACEMENTS for ranks in (1, 2)]
PLACED_OFTEN = (Layout(2, 1, "by-parameter"), Layout(2, 2, "by-node"))


@pytest.mark.parametrize(
    "layout",
    [layout if layout in PLACED_OFTEN else pytest.param(layout, marks=pytest.mark.long) for layout in PLACED],
    ids=lambda layout: f"{layout.placement}-{name_of(layout)}",
)
def test_every_placement_finds_the_same_over_hosts(layout: Layout, network: Network) -> None:
    alone, found = network.undisturbed(Layout(1)).coefficients, network.undisturbed(layout).coefficients
    for method, alpha in found.items():
        np.testing.assert_allclose(alpha, alone[method], rtol=0, atol=1e-5)
