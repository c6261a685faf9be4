"""The life of a job: a real Redis, a real Celery worker under SIGKILL, real ranks."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ladle_contracts import CheckpointFilter, JobSpec, JobState, MethodChoice, Output, Reason, Resources
from tests.builders import make_checkpoints, make_inputs
from tests.integration.life import Cluster, Gate, alpha_of, cluster
from tests.polling import SOON_S, until
from tests.servers import Process, RedisServer, gated_worker, is_alive, redis_server, running, worker_process

METHOD = MethodChoice(name="twa", options={"steps": 30})
SEARCH = MethodChoice(name="search", options={"over": "groups", "population": 8, "budget": 60})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with checkpoints and a validation set."""
    return make_inputs(tmp_path_factory.mktemp("data"))


def spec(data: Path, method: MethodChoice = METHOD, **changes: object) -> JobSpec:
    return JobSpec(ckpt_dir=str(data / "checkpoints"), val_set=str(data / "val.npz"), method=method, **changes)


def search(data: Path) -> JobSpec:
    """On two ranks, each of which evaluates candidates of its own."""
    return spec(data, SEARCH, output=Output(name="out"), metric="accuracy", resources=Resources(ranks_per_node=2))


def hold(gate: Gate, name: str) -> None:
    (gate.folder / f"{name}.hold").touch()


def assert_one_whole_result(results: Path, name: str) -> None:
    assert (results / name / "model.safetensors").stat().st_size > 1000
    assert sorted(path.name for path in results.iterdir() if path.name not in (".ladle", "gates")) == [name]
    assert not list(results.glob(".ladle-*.tmp")), "no staging folder is left"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Any]:
    """By method, what a run without any accident trains: through a worker too, so that threads and kernels are the
    same."""
    folder, found = tmp_path_factory.mktemp("uninterrupted"), {}
    with redis_server(folder) as server, cluster(server) as made, running(worker_process(folder, server, data)):
        for job in (spec(data, output=Output(name="out")), search(data)):
            assert made.finish(made.submit(job)).state == JobState.SUCCEEDED
            found[job.method.name] = trained_in(folder / "results", job.method.name)
            shutil.rmtree(folder / "results" / "out")
    return found


def trained_in(results: Path, method: str) -> Any:
    """The coefficients, and how training went."""
    report = json.loads((results / "out" / "report.json").read_text())
    return alpha_of(results, "out", method), report["training"][method]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before-claim", "training", "searching", "finalizing", "after-rename"])
def test_a_worker_killed_at_any_moment_costs_no_result(
    moment: str,
    tmp_path: Path,
    server: RedisServer,
    made: Cluster,
    worker: Process,
    gate: Gate,
    data: Path,
    uninterrupted: dict[str, Any],
) -> None:
    results, method = tmp_path / "results", SEARCH.name if moment == "searching" else METHOD.name
    until(lambda: made.call(made.store.nodes()), what="the node to register")
    if moment == "before-claim":
        made.stop_scheduler()
        job = made.submit(spec(data, output=Output(name="out")))
        worker.kill()
        made.start_scheduler()
    elif moment in ("training", "searching"):
        point = "train-17" if moment == "training" else "search-4"
        hold(gate, point)
        job = made.submit(spec(data, output=Output(name="out")) if moment == "training" else search(data))
        until(lambda: gate.reached(point), what=point)
        worker.kill()
        (gate.folder / f"{point}.hold").unlink()
    else:
        hold(gate, "outcome")
        job = made.submit(spec(data, output=Output(name="out")))
        until(lambda: gate.reached("outcome"), what="the outcome to be written")
        if moment == "after-rename":
            # What the agent does between `finalizing` and the end, and then it dies.
            (results / f".ladle-{job}-1.tmp").rename(results / "out")
        worker.kill()
        (gate.folder / "outcome.hold").unlink()
    worker.start()

    record = made.finish(job)
    assert record.state == JobState.SUCCEEDED, record
    assert record.failures == 0, "it is not the job's"
    assert record.node_failures >= (0 if moment == "before-claim" else 1)
    assert_one_whole_result(results, "out")
    assert record.result is not None
    assert record.result.folder == str(results / "out")
    assert trained_in(results, method) == uninterrupted[method]
    assert made.states(job)[-1] == "succeeded"


@pytest.mark.slow
def test_two_deliveries_of_one_message_run_one_job(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    hold(gate, "outcome")
    job = made.submit(spec(data, output=Output(name="out")))
    until(lambda: gate.reached("outcome"), what="the first delivery at work")
    made.call(made.waker.wake("node-1", job, 1, 0))
    gate.open("outcome")
    assert made.finish(job).state == JobState.SUCCEEDED
    until(lambda: "nothing to do" in worker.text(), what="the second delivery to be refused")
    assert made.states(job) == ["queued", "scheduled", "running", "finalizing", "succeeded"]
    assert_one_whole_result(tmp_path / "results", "out")


@pytest.mark.slow
def test_a_cancel_soon_ends_every_process(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    hold(gate, "train-5")
    job = made.submit(spec(data, resources=Resources(ranks_per_node=2)))
    until(lambda: gate.reached("train-5"), what="training")
    ours = {process.pid for process in worker.tree()}
    ranks = [process for process in worker.tree() if "tests.integration.gated_rank" in " ".join(process.cmdline())]
    assert len(ranks) >= 3, "torchrun and two ranks"
    began = time.monotonic()
    made.call(made.store.cancel(job))
    record = made.finish(job)
    assert record.state == JobState.CANCELLED
    assert record.reason == Reason.CANCELLED
    assert time.monotonic() - began < SOON_S
    assert not any(is_alive(process) for process in ranks)
    left = {process.pid for process in psutil.process_iter() if process.pid in ours}
    assert left <= {process.pid for process in worker.tree()}, "only the worker itself is left"
    assert not list((tmp_path / "results").glob(".ladle-*"))


@pytest.mark.slow
def test_a_job_that_runs_longer_than_it_may_ends_as_timed_out_and_is_not_tried_again(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    hold(gate, "start")
    job = made.submit(spec(data, resources=Resources(timeout_s=1)))
    record = made.finish(job)
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, Reason.TIMED_OUT, 1)
    assert "has run for 1 s" in (record.message or "")
    until(lambda: not list((tmp_path / "results").glob(".ladle*/*")), what="its files to go")


@pytest.mark.slow
def test_redis_restarted_in_the_middle_of_a_job_loses_nothing(
    tmp_path: Path, server: RedisServer, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    hold(gate, "train-9")
    job = made.submit(spec(data, output=Output(name="out")))
    until(lambda: gate.reached("train-9"), what="training")
    until(lambda: made.record(job).progress.step >= 1, what="progress")
    before = made.events(job)
    server.stop()
    gate.open("train-9")
    until(lambda: (tmp_path / "results" / f".ladle-{job}-1.tmp" / "report.json").exists(), what="the ranks go on")
    server.start()
    record = made.finish(job)
    assert record.state == JobState.SUCCEEDED
    assert record.attempt == 1
    after = made.events(job)
    assert after[: len(before)] == before
    kinds = [event.body.kind for event in after]
    assert kinds.count("checkpoints") == 1
    assert kinds.count("candidate") == 2
    steps = [
        event.body.step
        for event in after
        if event.body.kind == "step" and (event.body.stage, event.body.method) == ("train", "twa")
    ]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_stopped_worker_hands_its_job_back_without_counting_a_failure(
    tmp_path: Path, made: Cluster, worker: Process, gate: Gate, data: Path, uninterrupted: dict[str, Any]
) -> None:
    hold(gate, "train-12")
    job = made.submit(spec(data, output=Output(name="out")))
    until(lambda: gate.reached("train-12"), what="training")
    worker.stop()
    assert made.wait_for(job, lambda record: record.state == JobState.QUEUED).failures == 0
    gate.open("train-12")
    worker.start()
    record = made.finish(job)
    assert record.state == JobState.SUCCEEDED
    assert (record.attempt, record.failures) == (2, 0)
    assert trained_in(tmp_path / "results", "twa") == uninterrupted["twa"]


@pytest.mark.slow
def test_a_job_whose_ranks_keep_dying_fails_with_the_logs_tail(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    with running(worker_process(tmp_path, server, data, RANK_MODULE="tests.integration.dying_rank")):
        job = made.submit(spec(data))
        record = made.finish(job)
    assert record.state == JobState.FAILED
    assert record.reason == Reason.CRASHED
    assert (record.attempt, record.failures) == (3, 3)
    assert any("the rank dies here" in line for line in record.log_tail)
    assert any("the rank dies here" in line for line in made.call(made.store.logs(job, 100)))


def test_bad_input_fails_once_with_its_reason_and_leaves_nothing(
    tmp_path: Path, made: Cluster, worker: Process, data: Path
) -> None:
    job = made.submit(spec(data, checkpoints=CheckpointFilter(pattern="epoch-1*")))
    record = made.finish(job)
    assert record.state == JobState.FAILED
    assert record.reason == Reason.TOO_FEW_CHECKPOINTS
    assert "at least 2 checkpoints" in (record.message or "")
    assert record.attempt == 1
    assert not list((tmp_path / "results").glob("[!.]*/model*"))


def test_the_worker_refuses_paths_outside_its_roots_and_an_output_that_exists(
    tmp_path: Path, made: Cluster, worker: Process, data: Path
) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(data / "checkpoints", outside)
    (data / "link").unlink(missing_ok=True)
    (data / "link").symlink_to(outside)
    messages = set()
    for path in (outside, data / "checkpoints" / ".." / ".." / "outside", data / "link", data / "missing"):
        job = made.submit(JobSpec(ckpt_dir=str(path), val_set=str(data / "val.npz")))
        record = made.finish(job)
        assert (record.state, record.reason) == (JobState.FAILED, Reason.PATH_NOT_ALLOWED)
        messages.add((record.message or "").replace(str(path), "PATH"))
    assert len(messages) == 1, "outside and missing give the same answer"

    taken = tmp_path / "results" / "mine"
    taken.mkdir(parents=True)
    (taken / "precious.txt").write_text("keep me")
    job = made.submit(spec(data, output=Output(name="mine")))
    record = made.finish(job)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.OUTPUT_EXISTS)
    assert (taken / "precious.txt").read_text() == "keep me"
    assert [path.name for path in taken.iterdir()] == ["precious.txt"]


def test_a_disk_that_fills_up_ends_the_job_with_its_reason_and_leaves_nothing(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    make_checkpoints(data / "wide", width=32)
    process = worker_process(tmp_path, server, data)
    # No process may write more than 24 KB into one file; the model has more than 100.
    process.arguments = ["bash", "-c", 'ulimit -f 24; exec "$@"', "worker", *process.arguments]
    with running(process):
        job = made.submit(spec(data).model_copy(update={"ckpt_dir": str(data / "wide")}))
        record = made.finish(job)
        # The worker says how the job ended before it clears up.
        until(lambda: not list((tmp_path / "results" / ".ladle").iterdir()), what="the job's folder to go")
    assert (record.state, record.reason) == (JobState.FAILED, Reason.DISK_FULL), record
    assert record.attempt == 1, "trying again would not help"
    assert "must fit on its disk" in (record.message or "")
    assert [path.name for path in (tmp_path / "results").iterdir()] == [".ladle"]


def test_the_process_that_talks_to_redis_never_loads_torch(
    made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    hold(gate, "train-3")
    job = made.submit(spec(data))
    until(lambda: gate.reached("train-3"), what="training")
    with_torch = {
        " ".join(process.cmdline())
        for process in worker.tree()
        if any("libtorch" in path for path in mapped_by(process))
    }
    assert any("gated_rank" in command for command in with_torch), "the rank itself has it"
    assert not any(command.endswith("ladle_worker") for command in with_torch)
    made.call(made.store.cancel(job))
    made.finish(job)


def mapped_by(process: psutil.Process) -> list[str]:
    """The files; none where only root may see them, as those of the worker itself."""
    try:
        return [mapped.path for mapped in process.memory_maps()]
    except psutil.AccessDenied:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("standby", ["0", "1"], ids=["started for the job", "forked from what waited"])
def test_the_ranks_know_neither_redis_nor_its_password(
    standby: str, tmp_path: Path, made: Cluster, gate: Gate, data: Path, server: RedisServer
) -> None:
    with running(gated_worker(tmp_path, server, data, STANDBY=standby)) as worker:
        hold(gate, "train-3")
        job = made.submit(spec(data))
        until(lambda: gate.reached("train-3"), what="training")
        ranks = [process for process in worker.tree() if "gated_rank" in " ".join(process.cmdline())]
        assert ranks
        for process in ranks:
            assert not [name for name in process.environ() if name.startswith("LADLE_")]
            assert server.url not in " ".join(process.cmdline())
        made.call(made.store.cancel(job))
        made.finish(job)


@pytest.mark.slow
@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "at work"])
def test_a_worker_ends_when_it_is_asked_to_though_redis_is_gone(
    at_work: bool, server: RedisServer, made: Cluster, worker: Process, gate: Gate, data: Path
) -> None:
    until(lambda: made.call(made.store.nodes()), what="the node to register")
    if at_work:
        hold(gate, "train-3")
        made.submit(spec(data))
        until(lambda: gate.reached("train-3"), what="training")
    below = worker.tree()[1:]
    server.stop()
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < SOON_S
    until(lambda: not any(is_alive(process) for process in below), what="the process tree to be gone")


def test_what_a_lost_job_left_is_swept_away_and_strangers_folders_are_not(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    """Working and staging folders, and the result that an agent moved to its place before it was killed."""
    made.stop_scheduler()
    jobs = {name: made.submit(spec(data, output=Output(name=name))) for name in ("ended", "deleted", "waiting")}
    for name in ("ended", "deleted"):
        made.call(made.store.cancel(jobs[name]))
    made.call(made.store.delete(jobs["deleted"]))
    results = tmp_path / "results"
    for name, job in {**jobs, "stranger": "of-another-installation"}.items():
        (results / ".ladle" / job / "state").mkdir(parents=True)
        (results / f".ladle-{job}-2.tmp").mkdir()
        (results / name).mkdir()
        (results / name / "report.json").write_text(json.dumps({"provenance": {"job_id": job, "attempt": "1"}}))
    with running(worker_process(tmp_path, server, data)):
        until(
            lambda: (
                {path.name for path in (results / ".ladle").iterdir()} == {jobs["waiting"], "of-another-installation"}
            ),
            what="the folders of jobs that have ended to go",
        )
    assert sorted(path.name for path in results.iterdir()) == sorted(
        [".ladle", f".ladle-{jobs['waiting']}-2.tmp", ".ladle-of-another-installation-2.tmp", "waiting", "stranger"]
    )


@pytest.mark.slow
def test_torchrun_leaves_no_folder_in_the_temporary_one(
    tmp_path: Path, server: RedisServer, made: Cluster, data: Path
) -> None:
    process = worker_process(tmp_path, server, data)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process.environment = {**process.environment, "TMPDIR": str(temporary)}
    with running(process):
        assert made.finish(made.submit(spec(data))).state == JobState.SUCCEEDED
    assert not list(temporary.glob("torchelastic*"))
