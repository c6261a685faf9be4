"""What a worker does that hands jobs over, and the launcher that tests use, without Slurm or Kubernetes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ladle_contracts import JobState, keys
from ladle_service.store import record_from
from ladle_worker.launch.orphans import is_orphan
from ladle_worker.time_limit import TimeLimit
from tests.builders import make_checkpoints, make_val_set
from tests.integration.gang_jobs import gang_spec
from tests.integration.life import Cluster
from tests.integration.machine import LEASE_MS, Machine
from tests.servers import RedisServer, running, worker_process

pytestmark = pytest.mark.slow

LONG_MS = 3_600_000


def test_a_job_runs_as_a_plain_process_to_its_result(made: Cluster, server: RedisServer, tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    with running(worker_process(tmp_path, server, tmp_path, LAUNCHER="process")):
        ended = made.finish(made.submit(gang_spec(tmp_path, nodes=1)))
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), ended.message
    assert (tmp_path / "results/out/coefficients.json").exists()


def test_what_a_job_waits_for_elsewhere_is_shown_and_is_no_running_time(machine: Machine) -> None:
    machine.dispatcher("d", holds=2)
    job = machine.submit(nodes=3)
    machine.schedule(job)
    machine.claim(job, 1, "d")
    machine.redis.hset(keys.job(job), "running_since", int(time.time() * 1000) - LONG_MS)
    assert machine.call("renew", job, 1, "d", LEASE_MS, "is in Slurm's queue as job 7") == "ok"
    shown = record_from(machine.redis.hgetall(keys.job(job)), None)
    assert (shown.state, shown.waiting_for) == (JobState.RUNNING, "is in Slurm's queue as job 7")
    # A worker of the version before says nothing.
    assert machine.call("renew", job, 1, "d", LEASE_MS) == "ok"
    assert record_from(machine.redis.hgetall(keys.job(job)), None).waiting_for is None
    machine.end(job, 1, "released")
    assert int(machine.field(job, "ran_ms")) < LONG_MS // 2


def test_a_limit_of_time_waits_with_its_job() -> None:
    seconds = [0.0]
    limit = TimeLimit(10.0, 0.0, now=lambda: seconds[0])
    seconds[0] = 100.0
    limit.put_off(95.0)
    assert not limit.is_over()
    seconds[0] = 106.0
    assert limit.is_over()


def test_only_what_no_attempt_needs_is_an_orphan(machine: Machine) -> None:
    machine.dispatcher("d", holds=2)
    job = machine.submit()
    assert is_orphan(machine.redis, job, 1), "it is queued"
    machine.schedule(job)
    machine.claim(job, 1, "d")
    assert not is_orphan(machine.redis, job, 1)
    machine.end(job, 1, "released")
    machine.schedule(job)
    assert is_orphan(machine.redis, job, 1), "the second attempt has begun"
    assert not is_orphan(machine.redis, job, 2)
    machine.call("cancel", job)
    machine.claim(job, 2, "d")
    machine.end(job, 2, "failed")
    assert is_orphan(machine.redis, job, 2)
    assert not is_orphan(machine.redis, "of-another-redis", 1)
