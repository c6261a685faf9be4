"""Jobs over hosts with a network between them: real workers, each with an address of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ladle_contracts import JobState, Reason
from tests.builders import make_checkpoints, make_val_set
from tests.cluster.hosts import Host, hosts, why_not
from tests.integration.gang_jobs import gang_spec, ranks_of, wait_at
from tests.integration.life import Cluster, Gate, alpha_of, cluster
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, is_alive, redis_server, running, worker_process

REFUSED = why_not()
pytestmark = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)
PORT = 6379


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_checkpoints(root / "checkpoints")
    make_val_set(root / "val.npz")
    return root


@dataclass
class Network:
    """Redis on a host of its own, and workers on others."""

    folder: Path
    made: Cluster
    gate: Gate
    hosts: dict[str, Host]
    workers: dict[str, Process]

    def wait_at(self, point: str, job: str) -> None:
        wait_at(point, self.gate, self.made, job)


@pytest.fixture
def network(tmp_path: Path, data: Path) -> Iterator[Network]:
    names = ("node-1", "node-2", "node-3")
    with ExitStack() as stack:
        head, *others = stack.enter_context(hosts("head", *names))
        options = ("--port", str(PORT), "--bind", head.address, "--protected-mode", "no")
        server = stack.enter_context(redis_server(tmp_path, head.command(()), options))
        made = stack.enter_context(cluster(server))
        workers = {host.name: worker_on(host, head, tmp_path, server, data) for host in others}
        for worker in workers.values():
            stack.enter_context(running(worker))
        until(lambda: len(made.call(made.store.nodes())) == len(names), what="the nodes to register")
        yield Network(tmp_path, made, Gate(tmp_path / "results/gates"), {host.name: host for host in others}, workers)


def worker_on(host: Host, head: Host, folder: Path, server: RedisServer, data: Path) -> Process:
    process = gated_worker(folder, server, data, NODE_ID=host.name, REDIS_URL=f"redis://{head.address}:{PORT}/0")
    process.arguments = host.command(process.arguments)
    return process


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[list[float]]:
    """The coefficients that one rank finds."""
    folder = tmp_path_factory.mktemp("alone")
    with redis_server(folder) as server, cluster(server) as made, running(worker_process(folder, server, data)):
        assert made.finish(made.submit(gang_spec(data, nodes=1))).state == JobState.SUCCEEDED
    return alpha_of(folder / "results", "out", "twa")


@pytest.mark.parametrize(("nodes", "ranks"), [(2, 1), (2, 2), (3, 1)])
def test_any_number_of_hosts_finds_what_one_rank_finds(
    nodes: int, ranks: int, network: Network, data: Path, alone: list[list[float]]
) -> None:
    ended = network.made.finish(network.made.submit(gang_spec(data, nodes, ranks)))
    assert (ended.state, ended.attempt, len(ended.nodes)) == (JobState.SUCCEEDED, 1, nodes), ended.message
    np.testing.assert_allclose(alpha_of(network.folder / "results", "out", "twa"), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1], ids=["the first node", "the second node"])
def test_a_node_behind_a_cut_cable_is_named_and_the_job_goes_on_without_it(
    place: int, network: Network, data: Path, alone: list[list[float]]
) -> None:
    network.gate.hold("train-17")
    job = network.made.submit(gang_spec(data, 2))
    network.wait_at("train-17", job)
    cut, *_ = names = network.made.record(job).nodes[place:]
    ranks = [rank for name in network.made.record(job).nodes for rank in ranks_of(network.workers[name])]
    assert ranks
    network.hosts[cut].cut()
    lost = until(lambda: (record := network.made.record(job)).state == JobState.QUEUED and record, what="its end")
    assert (lost.reason, f"`{cut}`" in lost.message) == (Reason.NODE_LOST, True), names
    network.gate.let_pass("train-17")
    ended = network.made.finish(job)
    assert (ended.state, cut in ended.nodes) == (JobState.SUCCEEDED, False), ended.message
    np.testing.assert_allclose(alpha_of(network.folder / "results", "out", "twa"), alone, rtol=0, atol=1e-5)
    network.hosts[cut].heal()
    until(lambda: not any(is_alive(rank) for rank in ranks), what="the ranks behind the cut to end")


def test_a_node_that_was_frozen_changes_nothing_once_it_thaws(network: Network, data: Path) -> None:
    network.gate.hold("train-17")
    job = network.made.submit(gang_spec(data, 2))
    network.wait_at("train-17", job)
    name = network.made.record(job).nodes[0]
    frozen = network.workers[name].tree()
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    until(lambda: network.made.record(job).state == JobState.QUEUED, what="the end of the attempt")
    network.gate.let_pass("train-17")
    ended = network.made.finish(job)
    assert (ended.state, name in ended.nodes) == (JobState.SUCCEEDED, False), ended.message
    result = (network.folder / "results/out/coefficients.json").read_bytes()
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    ranks = [process for process in frozen if "gated_rank" in " ".join(process.cmdline() if is_alive(process) else [])]
    until(lambda: not any(is_alive(process) for process in ranks), what="the thawed ranks to end")
    assert (network.folder / "results/out/coefficients.json").read_bytes() == result
    assert network.made.record(job) == ended
