"""One command that is several nodes: two small jobs run at once on one machine."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from ladle_contracts import JobSpec, JobState, MethodChoice, Output, Resources
from tests.builders import make_inputs
from tests.integration.gang_jobs import ranks_of
from tests.integration.life import Cluster, Gate
from tests.polling import until
from tests.servers import RedisServer, gated_worker, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"), count=2)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a slot needs a core")
def test_two_jobs_run_at_once_on_one_machine_and_a_slot_that_is_killed_comes_back(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path, gate: Gate
) -> None:
    def spec(name: str) -> JobSpec:
        return JobSpec(
            ckpt_dir=str(data / "checkpoints"),
            val_set=str(data / "val.npz"),
            method=MethodChoice(name="uniform"),
            output=Output(name=name),
            resources=Resources(),
        )

    gate.hold("start")
    with running(gated_worker(tmp_path, server, data, NODE_ID="box", SLOTS="2")) as worker:
        until(lambda: {node.id for node in made.call(made.store.nodes())} == {"box-1", "box-2"}, what="two nodes")
        jobs = [made.submit(spec(name)) for name in ("first", "second")]
        for job in jobs:
            made.wait_running(job)

        def started() -> list[psutil.Process]:
            # Not torchrun, which names the module too.
            return [process for process in ranks_of(worker) if "ladle_worker.torchrun" not in process.cmdline()]

        until(lambda: len(started()) == 2, what="a rank for each")
        ranks = started()
        cores = [set(process.cpu_affinity() or ()) for process in ranks]
        assert not cores[0] & cores[1], "each has cores of its own"
        shares = [int(process.environ()["LADLE_HOST_BYTES"]) for process in ranks]
        assert shares[0] == shares[1]
        nodes = {made.record(job).nodes[0]: job for job in jobs}
        assert set(nodes) == {"box-1", "box-2"}
        (killed,) = [
            each
            for each in worker.tree()[1:]
            if each.environ().get("LADLE_NODE_ID") == "box-1" and each.ppid() == worker.pid
        ]
        killed.kill()
        gate.open("start")
        for job in jobs:
            assert made.finish(job).state == JobState.SUCCEEDED, made.record(job)
        assert made.record(nodes["box-2"]).attempt == 1, "the other slot went on"
        assert json.loads((tmp_path / "results/first/report.json").read_text())["provenance"]["job_id"] == jobs[0]
        until(lambda: all(node.alive for node in made.call(made.store.nodes())), what="the slot to be back")
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait() == 0
        # A slot that was about to start has no time to say that it leaves: it is missed a lease later.
        until(lambda: not any(node.alive for node in made.call(made.store.nodes())), what="both to have left")


def test_more_slots_than_cores_are_refused(tmp_path: Path, server: RedisServer, data: Path) -> None:
    with running(gated_worker(tmp_path, server, data, SLOTS="64")) as worker:
        assert worker.process is not None
        assert worker.process.wait() == 2
    assert "`LADLE_SLOTS` must be at most" in worker.text()
