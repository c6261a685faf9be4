"""A launcher waits for the next job with its imports done: the job gets the same result, and nothing of it is left."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ladle_contracts import JobSpec, JobState, MethodChoice, Output, Resources
from tests.builders import make_inputs
from tests.integration.life import Cluster, alpha_of
from tests.polling import until
from tests.servers import Process, RedisServer, running, worker_process

pytestmark = pytest.mark.slow

NOT_WARM = "the job's launcher is started anew"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


def spec(data: Path, name: str, ranks: int) -> JobSpec:
    return JobSpec(
        ckpt_dir=str(data / "checkpoints"),
        val_set=str(data / "val.npz"),
        method=MethodChoice(name="twa", options={"steps": 10}),
        resources=Resources(ranks_per_node=ranks),
        output=Output(name=name),
    )


def waiting(worker: Process) -> list[psutil.Process]:
    found = []
    for process in worker.tree():
        # One that has just ended has no command any more.
        with suppress(psutil.Error):
            if "--wait" in process.cmdline():
                found.append(process)
    return found


def run(made: Cluster, job: JobSpec) -> None:
    record = made.finish(made.submit(job))
    assert record.state == JobState.SUCCEEDED, record


def test_a_warm_job_gets_the_bytes_of_a_cold_one_and_nothing_of_the_standby_is_left(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    results = tmp_path / "results"
    with running(worker_process(tmp_path, server, data, STANDBY="1")) as worker:
        for ranks in (1, 2):
            ready = until(lambda: waiting(worker), what="a launcher that waits")[0]
            run(made, spec(data, f"warm-{ranks}", ranks))
            until(lambda ready=ready: not ready.is_running(), what="it to end with its job")  # type: ignore[misc]
        assert NOT_WARM not in worker.text()
        assert len(until(lambda: waiting(worker), what="another one")) == 1
        assert not [name for name in waiting(worker)[0].environ() if name.startswith("LADLE_")]
        # Without the one that waits a job starts its own.
        waiting(worker)[0].kill()
        run(made, spec(data, "killed", 1))
        assert f"{NOT_WARM}: none waits" in worker.text()
        below = worker.tree()
        worker.stop()
        until(lambda: not any(process.is_running() for process in below), what="all to end")
    with running(worker_process(tmp_path, server, data, NODE_ID="node-2")) as worker:
        for ranks in (1, 2):
            run(made, spec(data, f"cold-{ranks}", ranks))
        assert not waiting(worker)

    def numbers(name: str) -> bytes:
        """Without the header, which names the job."""
        whole = (results / name / "model.safetensors").read_bytes()
        return whole[8 + int.from_bytes(whole[:8], "little") :]

    for ranks in (1, 2):
        assert numbers(f"warm-{ranks}") == numbers(f"cold-{ranks}")
        assert alpha_of(results, f"warm-{ranks}", "twa") == alpha_of(results, f"cold-{ranks}", "twa")
    assert numbers("killed") == numbers("cold-1")
