"""The cable of a node is cut, slowed and healed, in the middle of each stage of a job."""

from __future__ import annotations

import pytest

from ladle_contracts import JobState, Reason
from tests.cluster.network import Layout, Network, needs_hosts
from tests.polling import until

pytestmark = needs_hosts

STAGES = ("stage-check", "train-17", "stage-select", "write", "{name}.finalize", "{name}.rename")
"""Points in the middle of them. At the last two the agent of the first node is held, else its rank 0."""
FIRST, SECOND = 0, 1
OFTEN = {
    *(("stage-check", SECOND), ("train-17", FIRST), ("stage-select", SECOND), ("write", FIRST)),
    *(("{name}.finalize", FIRST), ("{name}.rename", FIRST)),
}
MORE = {("stage-check", FIRST), ("train-17", SECOND), ("stage-select", FIRST), ("write", SECOND)}
CUTS = [
    *(pytest.param(*each, id=f"{each[0].format(name='agent')}-{each[1]}") for each in sorted(OFTEN)),
    *(pytest.param(*each, id=f"{each[0]}-{each[1]}", marks=pytest.mark.long) for each in sorted(MORE)),
]


@pytest.mark.parametrize(("point", "place"), CUTS)
def test_a_node_behind_a_cut_cable_is_named_and_the_job_goes_on_without_it(
    point: str, place: int, network: Network
) -> None:
    job = network.submit(Layout(2), hold=point)
    job.wait_at(point)
    cut = job.record().nodes[place]
    network.hosts[cut].cut()
    if place == FIRST:
        # What is held goes on behind the cut.
        job.let_pass(point)
    job.wait_for(lambda record: record.attempt > 1 or record.state == JobState.QUEUED)
    if place != FIRST:
        job.let_pass(point)
    ended = job.finish()
    assert (ended.attempt, ended.failures, cut in ended.nodes) == (2, 0, False), ended
    why = [event.body for event in job.events() if event.attempt == 1][-1]
    assert why.kind == "state"
    assert (why.reason, f"`{cut}`" in str(why.message)) == (Reason.NODE_LOST, True)
    network.hosts[cut].heal()
    job.assert_one_whole_result(ended)
    assert job.record() == ended


def test_cuts_that_are_shorter_than_a_lease_cost_nothing_in_any_stage(network: Network) -> None:
    job = network.submit(Layout(2), hold=STAGES[0])
    for number, point in enumerate(STAGES):
        job.wait_at(point)
        cut = job.record().nodes[number % 2]
        network.hosts[cut].cut()
        for following in STAGES[number + 1 : number + 2]:
            job.gate.hold(following.format(name=job.name))
        job.let_pass(point)
        until(lambda cut=cut: network.unheard_s(job, cut) > 1.5, what="the cut to be felt")
        network.hosts[cut].heal()
    ended = job.finish()
    assert (ended.attempt, ended.failures) == (1, 0), ended
    job.assert_one_whole_result(ended)


@pytest.mark.parametrize("place", [FIRST, pytest.param(SECOND, marks=pytest.mark.long)])
def test_a_slow_link_ends_no_attempt(place: int, network: Network) -> None:
    """Every step moves the whole gradient."""
    layout = Layout(2, placement="by-parameter")
    job = network.submit(layout, hold="stage-check")
    job.wait_at("stage-check")
    network.hosts[job.record().nodes[place]].slow("256kbit")
    job.let_pass("stage-check")
    ended = job.finish()
    network.heal()
    assert (ended.attempt, ended.failures) == (1, 0), ended
    job.assert_one_whole_result(ended)


@pytest.mark.long
def test_two_nodes_that_lose_only_each_other_end_the_attempt_and_go_on_once_healed(network: Network) -> None:
    job = network.submit(Layout(2), hold="train-17")
    job.wait_at("train-17")
    first, second = (network.hosts[name] for name in job.record().nodes)
    first.lose(second)
    second.lose(first)
    job.let_pass("train-17")
    job.wait_for(lambda record: record.attempt > 1 or record.state == JobState.QUEUED)
    for host in (first, second):
        host.heal()
    job.assert_one_whole_result(job.finish())
