"""A node stands still, with everything on it, and goes on when its job has long ended elsewhere."""

from __future__ import annotations

import time

import pytest

from tests.cluster.network import Layout, Network, needs_hosts
from tests.polling import until

pytestmark = needs_hosts

LONG_S = 40.0
POINTS = ("stage-check", "train-17", "write", "{name}.finalize", "{name}.rename", "{name}.end")
SHORT = {"train-17", "write", "{name}.rename"}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, id=point.format(name="agent"), marks=() if point in SHORT else pytest.mark.long)
        for point in POINTS
    ],
)
def test_a_node_that_was_frozen_for_40_s_changes_nothing_once_it_thaws(point: str, network: Network) -> None:
    job = network.submit(Layout(2), hold=point)
    job.wait_at(point)
    name = job.record().nodes[0]
    frozen_at = time.monotonic()
    network.freeze(network.workers[name])
    job.let_pass(point)
    ended = job.finish()
    assert (ended.attempt, ended.failures, name in ended.nodes) == (2, 0, False), ended
    result = {path.name: path.read_bytes() for path in job.result.iterdir()}
    events = job.events()
    until(lambda: time.monotonic() - frozen_at > LONG_S, what="40 s to be over")
    network.thaw()
    until(lambda: f"attempt 1 of job {job.id} was lost" in network.workers[name].text(), what="the agent to notice")
    job.assert_one_whole_result(ended)
    assert {path.name: path.read_bytes() for path in job.result.iterdir()} == result
    assert (job.record(), job.events()) == (ended, events)
