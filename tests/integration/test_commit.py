"""A result becomes visible once and whole, or never: agents are stopped at every point, and things happen meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ladle_contracts import JobRecord, JobSpec, JobState, MethodChoice, Output
from ladle_service import scheduler
from tests.builders import make_checkpoints, make_val_set
from tests.integration.life import Cluster, Gate, cluster
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, redis_server, running

METHOD = MethodChoice(name="uniform")
POINTS = ("finalize", "rename", "end")


@dataclass
class Pair:
    """Two nodes, whose agents can be held: one takes over what the other loses."""

    server: RedisServer
    made: Cluster
    workers: tuple[Process, Process]
    data: Path
    results: Path
    gate: Gate

    def submit(self, name: str) -> str:
        spec = JobSpec(
            ckpt_dir=str(self.data / "checkpoints"),
            val_set=str(self.data / "val.npz"),
            method=METHOD,
            output=Output(name=name),
        )
        return self.made.submit(spec)

    def submit_held(self, name: str, point: str) -> tuple[str, int]:
        """The job, and the process of its agent, which is stopped."""
        self.gate.hold(f"{name}.{point}")
        job = self.submit(name)
        agent = self.gate.wait_for(f"{name}.{point}")
        os.kill(agent, signal.SIGSTOP)
        self.gate.let_pass(f"{name}.{point}")
        self.gate.open(f"{name}.{point}")
        return job, agent

    def wait_until_gone(self, job: str) -> None:
        until(
            lambda: not list(self.results.glob(f".ladle-{job}-*")) and not (self.results / ".ladle" / job).exists(),
            what="the job's files to go",
        )

    def assert_agree(self, record: JobRecord, name: str) -> None:
        """The record and the disk: a whole result, or none."""
        folder = self.results / name
        assert folder.exists() == (record.state == JobState.SUCCEEDED), record
        if record.result is not None:
            assert {path.name: path.stat().st_size for path in folder.iterdir()} == record.result.files
            assert load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        # A stopped agent is free in Redis' eyes: how long the scheduler waits for it to claim the next attempt.
        patch.setattr(scheduler, "CLAIM_MS", 1500)
        folder = tmp_path_factory.mktemp("pair")
        make_checkpoints(folder / "data" / "checkpoints")
        make_val_set(folder / "data" / "val.npz")
        with redis_server(folder) as server, cluster(server) as made:
            # What is left is for the agents themselves to remove.
            settings = {"SWEEP_S": "3600", "RANKS": "1"}
            first, second = (
                gated_worker(folder, server, folder / "data", NODE_ID=name, **settings) for name in ("node-1", "node-2")
            )
            first.arguments[-1] = second.arguments[-1] = "tests.integration.gated_worker"
            with running(first), running(second):
                until(lambda: len(made.call(made.store.nodes())) == 2, what="both nodes to register")
                results = folder / "results"
                yield Pair(server, made, (first, second), folder / "data", results, Gate(results / "gates"))


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("meanwhile", ["nothing", "another attempt", "cancelled", "redis gone"])
def test_a_stopped_agent_leaves_one_whole_result_or_none(pair: Pair, point: str, meanwhile: str) -> None:
    name = f"{point}-{meanwhile.replace(' ', '-')}"
    job, agent = pair.submit_held(name, point)
    if meanwhile == "another attempt":
        assert pair.made.finish(job).attempt > 1
    elif meanwhile == "cancelled":
        pair.made.call(pair.made.store.cancel(job))
        pair.made.finish(job)
    elif meanwhile == "redis gone":
        pair.server.stop()
    os.kill(agent, signal.SIGCONT)
    if meanwhile == "redis gone":
        if point == "rename":
            until((pair.results / name).exists, what="the rename, which needs no Redis")
        pair.server.start()
    record = pair.made.finish(job)
    pair.wait_until_gone(job)
    pair.assert_agree(record, name)
    assert record.state == (JobState.CANCELLED if meanwhile == "cancelled" else JobState.SUCCEEDED)
    assert pair.made.record(job) == record, "what the agent did late has changed nothing"
    if meanwhile == "another attempt":
        report = json.loads((pair.results / name / "report.json").read_text())
        adopted = point == "end"
        assert report["provenance"] == {"job_id": job, "attempt": "1" if adopted else str(record.attempt)}
