"""A short form of `benchmarks/scheduling.py`: what must hold whatever the times are."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ladle_contracts import keys
from tests.integration.machine import Machine, disagreements
from tests.integration.simulation import Shape, simulate
from tests.servers import RedisServer

SHAPE = Shape(jobs=80, nodes=20, backlog=40, work_s=(0.01, 0.1), kept=0)


def test_twenty_nodes_run_every_job_once_and_in_order_though_messages_get_lost(
    machine: Machine, shared_server: RedisServer, tmp_path: Path
) -> None:
    machine.redis.delete(keys.SCHEDULER_LOCK)
    log = asyncio.run(simulate(shared_server.url, tmp_path, SHAPE))
    assert set(log.succeeded) == set(log.submitted)
    assert set(log.succeeded.values()) == {1}
    assert log.overlaps == []
    assert log.overtaken() == []
    for job, about in log.submitted.items():
        nodes, least, _ = about.need
        assert (least or nodes) <= log.gangs[job] <= nodes
    assert log.counts["refused claims"] > 0, "some messages came twice"
    assert disagreements(machine.redis) == []
    assert not machine.redis.exists(keys.ACTIVE, keys.QUEUE, keys.LANES, keys.HEAD)
