"""Jobs of several nodes: real workers, each with its own torchrun, that run one job together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from ladle_contracts import JobState, Reason, keys
from tests.builders import make_inputs
from tests.integration.gang_jobs import coefficients_alone, gang_spec, ranks_of, wait_at
from tests.integration.life import Cluster, Gate, alpha_of
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, is_alive, running, worker_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


@contextmanager
def nodes(folder: Path, server: RedisServer, data: Path, number: int, **settings: str) -> Iterator[list[Process]]:
    """Workers of one machine. Their ranks can be held at a point."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(gated_worker(folder, server, data, NODE_ID=f"node-{each}", **settings)))
            for each in range(1, number + 1)
        ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[list[float]]:
    """The coefficients that as many ranks find on one node."""
    return coefficients_alone(tmp_path_factory.mktemp("alone"), data, ranks=2)


def test_two_nodes_find_what_two_ranks_of_one_node_find(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate, alone: list[list[float]]
) -> None:
    with nodes(tmp_path, server, data, 2, STANDBY="1") as workers:
        gate.hold("train-3")
        job = made.submit(gang_spec(data, nodes=2))
        wait_at("train-3", gate, made, job)
        assert all(ranks_of(worker) for worker in workers), "each node has ranks"
        gate.open("train-3")
        gate.let_pass("train-3")
        ended = made.finish(job)
        assert (ended.state, ended.attempt, sorted(ended.nodes)) == (JobState.SUCCEEDED, 1, ["node-1", "node-2"])
        until(lambda: not list((tmp_path / "results").glob(".ladle*/*")), what="all else of it to go")
    np.testing.assert_allclose(alpha_of(tmp_path / "results", "out", "twa"), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", [0, 1], ids=["the first node", "the second node"])
def test_a_node_that_is_killed_ends_the_attempt_everywhere_and_the_next_one_resumes(
    which: int, tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate, alone: list[list[float]]
) -> None:
    with nodes(tmp_path, server, data, 2) as workers:
        gate.hold("train-17")
        job = made.submit(gang_spec(data, nodes=2))
        wait_at("train-17", gate, made, job)
        assigned = made.record(job).nodes
        killed = workers[int(assigned[which].removeprefix("node-")) - 1]
        ranks = [rank for worker in workers for rank in ranks_of(worker)]
        killed.kill()
        until(lambda: not any(is_alive(rank) for rank in ranks), what="the ranks of both nodes to end")
        gate.let_pass("train-17")
        killed.start()
        ended = made.finish(job)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)
    np.testing.assert_allclose(alpha_of(tmp_path / "results", "out", "twa"), alone, rtol=0, atol=1e-6)


def test_a_frozen_node_is_named_and_the_job_goes_on_without_it(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    with nodes(tmp_path, server, data, 3) as workers:
        until(lambda: len(made.call(made.store.nodes())) == 3, what="three nodes")
        gate.hold("train-17")
        job = made.submit(gang_spec(data, nodes=2))
        wait_at("train-17", gate, made, job)
        name = made.record(job).nodes[1]
        frozen = workers[int(name.removeprefix("node-")) - 1].tree()
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        try:
            lost = until(lambda: (record := made.record(job)).state == JobState.QUEUED and record, what="its end")
            assert (lost.reason, name in lost.message) == (Reason.NODE_LOST, True)
            gate.let_pass("train-17")
            ended = made.finish(job)
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)
        assert (ended.state, name in ended.nodes) == (JobState.SUCCEEDED, False)


def test_a_cancel_ends_the_ranks_of_every_node(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    with nodes(tmp_path, server, data, 2) as workers:
        gate.hold("train-3")
        job = made.submit(gang_spec(data, nodes=2))
        wait_at("train-3", gate, made, job)
        ranks = [rank for worker in workers for rank in ranks_of(worker)]
        made.call(made.store.cancel(job))
        assert made.finish(job).state == JobState.CANCELLED
        until(lambda: not any(is_alive(rank) for rank in ranks), what="all ranks to end")
        until(lambda: not list((tmp_path / "results").glob(".ladle*/*")), what="its files to go")


def test_a_job_of_two_nodes_waits_for_the_second_and_says_so(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    with nodes(tmp_path, server, data, 1):
        until(lambda: made.call(made.store.nodes()), what="the node to register")
        job = made.submit(gang_spec(data, nodes=2))
        until(lambda: made.record(job).waiting_for == "needs 2 nodes, 1 free of 1", what="the reason")
        with running(gated_worker(tmp_path, server, data, NODE_ID="node-2")):
            assert made.finish(job).state == JobState.SUCCEEDED


def test_a_node_that_does_not_see_the_checkpoints_is_named_before_any_rank_starts(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    gate.hold("start")
    with (
        running(gated_worker(tmp_path, server, data, NODE_ID="node-1")),
        running(gated_worker(tmp_path, server, elsewhere, NODE_ID="node-2")),
    ):
        ended = made.finish(made.submit(gang_spec(data, nodes=2)))
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.INPUTS_DIFFER)
    assert "node `node-2` does not see those of node `node-1`" in (ended.message or "")
    assert str(data / "checkpoints") in (ended.message or "")
    assert not gate.reached("start"), "no rank has started"


def test_a_node_that_is_never_ready_is_named_and_the_job_goes_on_without_it(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    """It comes late, and finds that the attempt is over."""
    with ExitStack() as stack:
        for number in (1, 2, 3):
            process = worker_process(tmp_path, server, data, NODE_ID=f"node-{number}", READY_S="10")
            process.arguments[-1] = "tests.integration.gated_worker"
            stack.enter_context(running(process))
        until(lambda: len(made.call(made.store.nodes())) == 3, what="three nodes")
        (gate.folder / "node-2.late").touch()
        job = made.submit(gang_spec(data, nodes=2))
        ended = made.finish(job)
        assert (ended.state, sorted(ended.nodes)) == (JobState.SUCCEEDED, ["node-1", "node-3"])
        assert (ended.failures, ended.node_failures) == (0, 1)
        told = [event.body.message for event in made.events(job) if event.body.kind == "state" and event.body.message]
        assert told == [
            "All nodes of a job must be ready within 10 s, but `node-2` was not. `LADLE_READY_S` sets the limit."
        ]
        late = {node.id: node.failures_in_row for node in made.call(made.store.nodes())}
        assert late == {"node-1": 0, "node-2": 1, "node-3": 0}
        # Whether it was the first node or the second.
        log = (tmp_path / "node-2.log").read_text()
        assert f"attempt 1 of job {job} (node rank" in log
        assert "ended: lost" in log


def test_a_node_that_is_drained_at_once_hands_its_part_back_and_the_job_goes_on_without_it(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    with nodes(tmp_path, server, data, 3):
        until(lambda: len(made.call(made.store.nodes())) == 3, what="three nodes")
        gate.hold("train-17")
        job = made.submit(gang_spec(data, nodes=2))
        wait_at("train-17", gate, made, job)
        drained = made.record(job).nodes[1]
        assert made.call(made.store.change_node(drained, "drain-now", "a test"))
        gate.let_pass("train-17")
        ended = made.finish(job)
        assert (ended.state, drained in ended.nodes) == (JobState.SUCCEEDED, False)
        assert (ended.failures, ended.node_failures) == (0, 0)
        assert {node.id: node.state for node in made.call(made.store.nodes())}[drained] == "drained"


def test_nodes_that_share_no_results_hand_the_state_on_to_each_other(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, alone: list[list[float]]
) -> None:
    """The only node that ran the first attempt is gone for good."""
    gates: dict[str, Gate] = {}
    workers: dict[str, Process] = {}
    for name in ("node-1", "node-2", "node-3"):
        folder = tmp_path / name
        gates[name] = Gate(folder / "results/gates")
        gates[name].hold("train-17")
        workers[name] = gated_worker(folder, server, data, NODE_ID=name, STATE_COPY_S="0.1")
    with ExitStack() as stack:
        for worker in workers.values():
            stack.enter_context(running(worker))
        until(lambda: len(made.call(made.store.nodes())) == 3, what="three nodes")
        job = made.submit(gang_spec(data, nodes=2))
        until(lambda: any(gate.reached("train-17") for gate in gates.values()), what="training")
        first = made.record(job).nodes[0]
        with server.client() as client:
            copied = keys.state_copy(job)
            until(lambda: any("train-twa" in name for name in client.hkeys(copied)), what="the copy of the state")
        for gate in gates.values():
            gate.let_pass("train-17")
            gate.hold("start")
        workers[first].kill()
        others = sorted(workers.keys() - {first})
        until(lambda: all(gates[name].reached("start") for name in others), what="the second attempt")
        state = tmp_path / made.record(job).nodes[0] / "results/.ladle" / job / "state"
        assert list(state.rglob("train-twa.pt")), "the new first node has what the lost one has saved"
        for name in others:
            gates[name].open("start")
        ended = made.finish(job)
        assert (ended.state, ended.attempt, sorted(ended.nodes)) == (JobState.SUCCEEDED, 2, others), ended.message
        assert ended.result is not None
        assert not any("begins anew" in warning for warning in ended.result.warnings)
        assert not client.exists(keys.state_copy(job))
    np.testing.assert_allclose(alpha_of(tmp_path / ended.nodes[0] / "results", "out", "twa"), alone, rtol=0, atol=1e-6)


def test_a_node_whose_disk_goes_is_named_and_the_attempt_ends_everywhere(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    names = ("node-1", "node-2")
    gates = {name: Gate(tmp_path / name / "results/gates") for name in names}
    for gate in gates.values():
        gate.hold("train-3")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(running(gated_worker(tmp_path / name, server, data, NODE_ID=name))) for name in names
        ]
        job = made.submit(gang_spec(data, nodes=2))
        until(lambda: all(gate.reached("train-3") for gate in gates.values()), what="training")
        ranks = [rank for worker in workers for rank in ranks_of(worker)]
        lost = made.record(job).nodes[1]
        (tmp_path / lost / "results").rename(tmp_path / lost / "gone")
        ended = until(lambda: (record := made.record(job)).attempt == 1 and record.reason and record, what="its end")
        assert (ended.reason, f"On node `{lost}`:" in (ended.message or "")) == (Reason.RESULTS_UNWRITABLE, True)
        until(lambda: not any(is_alive(rank) for rank in ranks), what="the ranks of both nodes to end")
        made.call(made.store.cancel(job))


def test_directions_cut_inside_each_node_find_the_same(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, alone: list[list[float]]
) -> None:
    with nodes(tmp_path, server, data, 2):
        job = made.submit(gang_spec(data, nodes=2, ranks=2, placement="by-node"))
        ended = made.finish(job)
        assert ended.state == JobState.SUCCEEDED, ended.message
        planned = [event.body for event in made.events(job) if event.body.kind == "memory"]
        assert [getattr(body, "placement", None) for body in planned][:1] == ["by-node"]
    np.testing.assert_allclose(alpha_of(tmp_path / "results", "out", "twa"), alone, rtol=0, atol=1e-5)
