"""Faults of plug-ins through a real worker: what would come again ends the first attempt, a crash does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import JobRecord, JobSpec, JobState, MethodChoice, Reason, Resources, TaskChoice
from tests.builders import make_checkpoints, make_val_set
from tests.hostile import FORGED, HOSTILE, unsafe_in
from tests.integration.life import Cluster, cluster
from tests.plug_ins import install, line_of, task_source
from tests.servers import redis_server, running, worker_process

pytestmark = pytest.mark.slow

SOURCES = {
    "raises": task_source(
        "raises",
        "def loss(self, model, batch):\n    return model(batch['pixel_values']).sum() / self.temperature",
    ),
    "exits": task_source("exits", "def build_model(self, checkpoints):\n    sys.exit('the licence has expired')"),
    "does-not-load": "import no_such_library\n",
    "hostile": f"raise RuntimeError({HOSTILE!r})\n",
    "column": task_source(
        "column",
        "def evaluate(self, model, batch):\n"
        "    return {name: values[:, None] for name, values in super().evaluate(model, batch).items()}",
    ),
    "not-utf-8": task_source(
        "not-utf-8",
        "def loss(self, model, batch):\n"
        "    print('printed \\udce9', flush=True)\n"
        "    raise RuntimeError('raised \\udce9')",
    ),
    "killed": task_source("killed", "def build_model(self, checkpoints):\n    os.kill(os.getpid(), signal.SIGKILL)"),
    "bad-disk": task_source(
        "bad-disk",
        "def open_data(self, path, checkpoints):\n"
        # Ranks may write nowhere else, and no other folder is still there at the next attempt.
        "    seen = type(path).cwd().parent / 'state' / 'seen'\n"
        "    if not seen.exists():\n"
        "        seen.touch()\n"
        "        raise OSError(5, 'Input/output error')\n"
        "    return super().open_data(path, checkpoints)",
    ),
}


class Jobs:
    """A worker with plug-ins, and jobs that name them."""

    def __init__(self, made: Cluster, root: Path, files: dict[str, Path], log: Path) -> None:
        self.log = log
        self.made = made
        self.root = root
        self.files = files

    def run(self, task: str, **more: Any) -> JobRecord:
        spec = JobSpec(
            ckpt_dir=str(self.root / "checkpoints"), val_set=str(self.root / "val.npz"), task=TaskChoice(name=task),
            method=MethodChoice(name="uniform"), **more,
        )  # fmt: skip
        return self.made.finish(self.made.submit(spec))


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    root, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("plug-ins")
    make_checkpoints(root / "checkpoints")
    make_val_set(root / "val.npz")
    files = {name: install(folder / "site", name, source) for name, source in SOURCES.items()}
    with redis_server(folder) as server, cluster(server) as made:
        process = worker_process(folder, server, root)
        paths = [str(folder / "site"), process.environment["PYTHONPATH"]]
        process.environment = {**process.environment, "PYTHONPATH": os.pathsep.join(paths)}
        with running(process):
            yield Jobs(made, root, files, process.log)


@pytest.mark.parametrize(
    ("task", "where", "words"),
    [
        ("raises", "self.temperature", "AttributeError: 'Task' object has no attribute 'temperature'"),
        ("exits", "sys.exit(", "SystemExit: the licence has expired"),
        ("does-not-load", "no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_an_error_of_a_plug_in_ends_the_first_attempt_and_the_log_has_its_traceback(
    jobs: Jobs, task: str, where: str, words: str
) -> None:
    record = jobs.run(task)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.TASK_FAILED), record
    assert (record.attempt, record.failures) == (1, 0), "it would only come again"
    file = jobs.files[task]
    assert f"Task `{task}` fails" in (record.message or "")
    assert f"({file}, line {line_of(file, where)}): {words}" in (record.message or "")
    assert any(line.startswith("Traceback") for line in record.log_tail)
    assert any(f'File "{file}", line {line_of(file, where)}' in line for line in record.log_tail)


def test_no_plug_in_forges_a_line_of_the_workers_log(jobs: Jobs) -> None:
    assert jobs.run("hostile").reason == Reason.TASK_FAILED
    log = jobs.log.read_text()
    assert FORGED in log
    assert not unsafe_in(log)
    assert not [line for line in log.splitlines() if line.startswith((FORGED, f"# {FORGED}"))]


def test_text_that_is_not_utf_8_loses_no_node(jobs: Jobs) -> None:
    """As names of files give it to Python: in what a task prints and raises."""
    record = jobs.run("not-utf-8")
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, Reason.TASK_FAILED, 1), record
    assert "raised \\udce9" in (record.message or "")
    assert "printed \\udce9" in record.log_tail
    record.model_dump_json().encode()


def test_names_of_files_that_are_not_utf_8_lose_no_node(jobs: Jobs) -> None:
    """A side file keeps its name, and the result names it with an escape."""
    name = os.fsdecode(b"caf\xe9")
    shutil.copytree(jobs.root / "checkpoints", jobs.root / "odd")
    shutil.copy(jobs.root / "odd" / "epoch-1.safetensors", jobs.root / "odd" / f"epoch-{name}.safetensors")
    (jobs.root / "odd" / f"{name}.json").write_text("{}")
    spec = JobSpec(
        ckpt_dir=str(jobs.root / "odd"), val_set=str(jobs.root / "val.npz"), method=MethodChoice(name="uniform")
    )
    record = jobs.made.finish(jobs.made.submit(spec))
    assert (record.state, record.attempt) == (JobState.SUCCEEDED, 1), record
    assert record.result is not None
    assert "caf\\udce9.json" in record.result.files
    assert (Path(record.result.folder) / f"{name}.json").exists()
    assert any(
        "not UTF-8" in event.body.message for event in jobs.made.events(record.id) if event.body.kind == "warning"
    )
    record.model_dump_json().encode()


def test_metrics_of_a_wrong_shape_end_the_first_attempt(jobs: Jobs) -> None:
    record = jobs.run("column")
    assert (record.reason, record.attempt) == (Reason.TASK_FAILED, 1)
    assert "`evaluate` of task `column` must return one value per example for `accuracy`" in (record.message or "")
    assert "but returns float32 [8, 1]" in (record.message or "")


def test_an_error_on_two_ranks_is_told_once(jobs: Jobs) -> None:
    record = jobs.run("raises", resources=Resources(ranks_per_node=2))
    assert (record.reason, record.attempt) == (Reason.TASK_FAILED, 1)


def test_a_plug_in_that_is_killed_is_tried_again(jobs: Jobs) -> None:
    record = jobs.run("killed")
    assert (record.state, record.reason) == (JobState.FAILED, Reason.CRASHED)
    assert (record.attempt, record.failures) == (3, 3)


def test_a_disk_that_fails_for_a_moment_is_tried_again(jobs: Jobs) -> None:
    record = jobs.run("bad-disk")
    assert record.state == JobState.SUCCEEDED, record
    assert (record.attempt, record.failures, record.node_failures) == (2, 0, 1), "a disk is the node's"


def test_a_mistake_in_ladle_ends_the_first_attempt_and_says_so(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "data" / "checkpoints")
    make_val_set(tmp_path / "data" / "val.npz")
    with redis_server(tmp_path) as server, cluster(server) as made:
        process = worker_process(tmp_path, server, tmp_path / "data", RANK_MODULE="tests.integration.buggy_rank")
        with running(process):
            record = Jobs(made, tmp_path / "data", {}, process.log).run("small-cnn")
    assert (record.state, record.reason, record.attempt) == (JobState.FAILED, Reason.INTERNAL_ERROR, 1), record
    assert "KeyError: 'a mistake'. This is a mistake in Ladle" in (record.message or "")
    assert any("buggy_rank.py" in line for line in record.log_tail)
