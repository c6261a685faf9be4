"""Every part of a cluster is restarted, one after the other, while jobs run and wait."""

from __future__ import annotations

import signal

import pytest

from tests.cluster.network import HEAD, NODES, Layout, Network, needs_hosts
from tests.polling import until
from tests.servers import Process

pytestmark = needs_hosts

TEN = [*[Layout(1)] * 5, *[Layout(2)] * 3, Layout(1, 2), Layout(3)]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)], ids=lambda number: number.name
)
def test_everything_is_restarted_in_turn_while_ten_jobs_run_and_each_gives_one_result(
    number: signal.Signals, network: Network
) -> None:
    jobs = [network.submit(layout) for layout in TEN]
    until(lambda: any(job.processes() for job in jobs), what="ranks to run")
    restart_redis(network, number)
    restart(network.services[HEAD], number)
    for node in NODES:
        before = network.node(node).started_at
        restart(network.workers[node], number)
        until(lambda node=node, before=before: network.node(node).started_at > before, what=node, interval_s=0.2)
    ended = [job.finish() for job in jobs]
    assert any(record.attempt > 1 for record in ended), "some were running on what was restarted"
    for job, record in zip(jobs, ended, strict=True):
        job.assert_one_whole_result(record)
        assert number == signal.SIGKILL or record.failures == 0, record


def restart_redis(network: Network, number: signal.Signals) -> None:
    assert network.server.process is not None
    network.server.process.send_signal(number)
    network.server.process.wait()
    network.server.start()


def restart(process: Process, number: signal.Signals) -> None:
    if number == signal.SIGKILL:
        process.kill()
    else:
        process.stop()
    process.start()
