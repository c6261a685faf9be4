from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import JobRecord, JobSpec
from tests.builders import make_inputs
from tests.integration.gang_jobs import coefficients_alone, gang_spec, wait_at
from tests.integration.life import Cluster, Gate, alpha_of, cluster
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, redis_server, running
from tests.slurm.mini import MiniSlurm, mini_slurm, processes_with


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[list[float]]:
    """The coefficients that one rank of an ordinary worker finds."""
    return coefficients_alone(tmp_path_factory.mktemp("alone"), data)


@pytest.fixture(scope="session")
def one_slurm() -> Iterator[MiniSlurm]:
    with mini_slurm() as made:
        yield made


@dataclass
class Stack:
    """Ladle over Slurm: Redis, the scheduler and a dispatcher."""

    folder: Path
    data: Path
    slurm: MiniSlurm
    server: RedisServer
    made: Cluster
    gate: Gate
    dispatchers: list[Process] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def dispatcher(self, **settings: str) -> Process:
        """Not started."""
        options = {"LAUNCHER": "slurm", "HOLDS": "3", "NODE_ID": "dispatcher", "SLURM_POLL_S": "0.5", "SWEEP_S": "1"}
        process = gated_worker(self.folder, self.server, self.data, **{**options, **settings})
        process.arguments = self.slurm.command(process.arguments)
        process.environment = {**process.environment, **self.slurm.environment}
        return process

    def spec(self, nodes: int = 1, ranks: int | None = 1, **resources: Any) -> JobSpec:
        spec = gang_spec(self.data, nodes)
        asked = spec.resources.model_copy(update={"ranks_per_node": ranks, **resources})
        return spec.model_copy(update={"resources": asked})

    def wait_at(self, point: str, job: str) -> None:
        wait_at(point, self.gate, self.made, job)

    def slurm_job(self, *states: str) -> str:
        """The id of Ladle's only one."""
        found = until(lambda: [each for each, name in self.slurm.jobs(*states).items() if name.startswith("ladle-")])
        (job,) = found
        return job

    def machine_of(self, job: str) -> str:
        return self.slurm.field_of(job, "NodeList")

    def processes(self, job: str, attempt: int = 1) -> Any:
        """Tasks, torchrun and ranks, on any machine."""
        return processes_with(f"{job}/attempt-{attempt}")

    def wait_for_reason(self, job: str, words: str) -> JobRecord:
        return until(lambda: words in ((record := self.made.record(job)).waiting_for or "") and record, what=words)

    def alpha(self) -> Any:
        return alpha_of(self.results, "out", "twa")


@pytest.fixture
def stack(tmp_path: Path, data: Path, one_slurm: MiniSlurm) -> Iterator[Stack]:
    one_slurm.mend()
    with ExitStack() as exits:
        server = exits.enter_context(redis_server(tmp_path))
        made = exits.enter_context(cluster(server))
        yield Stack(tmp_path, data, one_slurm, server, made, Gate(tmp_path / "results/gates"))


@pytest.fixture
def ready(stack: Stack) -> Iterator[Stack]:
    """With a dispatcher."""
    with running(stack.dispatcher()) as dispatcher:
        stack.dispatchers.append(dispatcher)
        until(lambda: stack.made.call(stack.made.store.nodes()), what="the dispatcher to register")
        yield stack
