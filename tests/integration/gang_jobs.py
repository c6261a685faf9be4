"""Jobs of several nodes, for tests with workers on one machine and on hosts of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import psutil

from ladle_contracts import JobSpec, JobState, MethodChoice, Output, Resources
from ladle_contracts.job_record import TERMINAL_STATES
from tests.integration.life import Cluster, Gate, alpha_of, cluster
from tests.polling import until
from tests.servers import Process, redis_server, running, worker_process


def gang_spec(data: Path, nodes: int, ranks: int = 1, placement: Literal["auto", "by-node"] = "auto") -> JobSpec:
    return JobSpec(
        ckpt_dir=str(data / "checkpoints"),
        val_set=str(data / "val.npz"),
        method=MethodChoice(name="twa", options={"steps": 30}),
        resources=Resources(nodes=nodes, ranks_per_node=ranks, placement=placement),
        output=Output(name="out"),
    )


def coefficients_alone(folder: Path, data: Path, ranks: int = 1) -> list[list[float]]:
    """Those that one worker finds."""
    with redis_server(folder) as server, cluster(server) as made, running(worker_process(folder, server, data)):
        assert made.finish(made.submit(gang_spec(data, nodes=1, ranks=ranks))).state == JobState.SUCCEEDED
    return alpha_of(folder / "results", "out", "twa")


def wait_at(point: str, gate: Gate, made: Cluster, job: str) -> None:
    """Until a rank has come there. Fails at once if the job has ended."""

    def reached() -> bool:
        record = made.record(job)
        assert record.state not in TERMINAL_STATES, (record.reason, record.message, record.log_tail)
        return gate.reached(point)

    until(reached, what=point)


def ranks_of(worker: Process) -> list[psutil.Process]:
    """torchrun and the ranks that it started there."""
    return [process for process in worker.tree() if "gated_rank" in " ".join(process.cmdline())]
