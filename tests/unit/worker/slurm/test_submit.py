"""The batch file that submitit writes for one attempt, and the settings behind it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_worker.launch.slurm import launcher as slurm_launcher
from ladle_worker.launch.slurm.settings import SlurmSettings, read_time
from ladle_worker.launch.slurm.submit import minutes_of, parameters, submit
from tests.unit.worker.test_on_node import launch_in

FAKE_SBATCH = """#!/bin/sh
cp "$1" "{folder}/batch.sh"
env > "{folder}/environment"
echo Submitted batch job 7
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where an `sbatch` on PATH puts what it is given."""
    for name in ("sbatch", "srun"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAKE_SBATCH.format(folder=tmp_path))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def flags(folder: Path) -> dict[str, str]:
    lines = (folder / "batch.sh").read_text().splitlines()
    words = [shlex.split(line.removeprefix("#SBATCH "))[0] for line in lines if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in words)}


def test_one_task_per_node_with_all_that_the_operator_says(sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADLE_REDIS_URL", "redis://:secret@head:6379/0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    settings = SlurmSettings(
        partition="gpu",
        account="ml",
        qos="low",
        constraint="a100&ib",
        time=240,
        gpus_per_node=8,
        cpus_per_node=64,
        mem="0",
        signal_s=120,
        setup=Path("/shared/setup.sh"),
    )
    wanted = parameters(settings, nodes=2, ranks=4, minutes=240, after=["5", "6"])
    assert submit(launch_in(sbatch, "ladle_worker.rank"), settings, "ladle-x-job-1", wanted) == "7"
    found = flags(sbatch)
    assert found == found | {
        "job-name": "ladle-x-job-1",
        "nodes": "2",
        "ntasks-per-node": "1",
        "time": "240",
        "partition": "gpu",
        "account": "ml",
        "qos": "low",
        "constraint": "a100&ib",
        "gpus-per-node": "4",
        "cpus-per-task": "64",
        "mem": "0",
        "signal": "USR2@120",
        "dependency": "afterany:5:6",
        "no-requeue": "",
    }
    exported = found["export"].split(",")
    assert "PATH" in exported
    assert not {"LADLE_REDIS_URL", "AWS_SECRET_ACCESS_KEY", "CUDA_VISIBLE_DEVICES", "ALL"} & set(exported)
    text = (sbatch / "batch.sh").read_text()
    assert text.index("unset SLURM_EXPORT_ENV") < text.index(". /shared/setup.sh") < text.index("srun ")
    assert "--kill-on-bad-exit=1" in text
    assert "secret" not in text


def test_without_settings_nothing_is_asked_for_but_nodes_and_time(sbatch: Path) -> None:
    settings = SlurmSettings()
    submit(launch_in(sbatch, "ladle_worker.rank"), settings, "n", parameters(settings, nodes=1, ranks=2, minutes=1440))
    assert not {"partition", "account", "qos", "constraint", "gpus-per-node", "mem", "dependency"} & set(flags(sbatch))


def test_a_job_that_can_do_with_fewer_nodes_lets_slurm_choose(sbatch: Path) -> None:
    settings = SlurmSettings()
    wanted = parameters(settings, nodes=4, min_nodes=2, ranks=1, minutes=60)
    submit(launch_in(sbatch, "ladle_worker.rank"), settings, "n", wanted)
    assert flags(sbatch)["nodes"] == "2-4"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30", 30), ("30:01", 31), ("4:00:00", 240), ("2-0", 2880), ("2-12:30", 3630), ("2-12:00:01", 3601)],
)
def test_times_are_what_slurm_means_by_them(text: str, minutes: int) -> None:
    assert read_time(text) == minutes


@pytest.mark.parametrize("text", ["soon", "1:2:3:4", "-1", "1h", "UNLIMITED", "0"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        SlurmSettings(time=text)  # type: ignore[arg-type]


def test_a_job_with_a_time_limit_asks_for_no_more_than_that_and_never_for_more_than_the_operators() -> None:
    settings = SlurmSettings(time=60, signal_s=60)
    assert minutes_of(settings, None) == 60
    assert minutes_of(settings, 600.0) == 13
    assert minutes_of(settings, 360_000.0) == 60


def test_an_answer_that_was_lost_does_not_make_a_second_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is left of an earlier attempt ends before the new one begins."""
    from ladle_worker.launch.slurm.commands import Attempt
    from ladle_worker.settings import Settings

    asked: list[Any] = []
    known = [("5", Attempt(job_id="job", number=0)), ("6", Attempt(job_id="another", number=1))]
    monkeypatch.setattr(slurm_launcher, "jobs_of_ladle", lambda _: known)
    monkeypatch.setattr(slurm_launcher.commands, "cancel", lambda ids: asked.append(("cancel", list(ids))))
    monkeypatch.setattr(slurm_launcher, "submit", lambda *given: asked.append(("submit", given[3])) or "7")
    made = slurm_launcher.Slurm(Settings(roots=(tmp_path,), results_dir=tmp_path), SlurmSettings())
    made._launch, made._name, made._minutes = launch_in(tmp_path, "ladle_worker.rank"), "name", 60
    assert made._begin() == "7"
    (_, ended), (_, wanted) = asked
    assert ended == ["5"]
    assert wanted["additional_parameters"]["dependency"] == "afterany:5"
    known.append(("7", Attempt(job_id="job", number=1)))
    assert made._begin() == "7"
    assert len(asked) == 2, "it was found"
