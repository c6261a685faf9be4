"""What Slurm's commands print, and what Ladle reads in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle_worker.launch.slurm.commands import (
    Attempt,
    SlurmAway,
    SlurmJob,
    SlurmRefused,
    attempt_of,
    name_of,
    read_job,
    seconds,
    trouble,
)

LINE = (
    "JobId=7 JobName=ladle-0a1b2c3d-01K9-abc-2 UserId=ann(1000) GroupId=ann(1000) MCS_label=N/A Priority=42 Nice=0 "
    "Account=(null) QOS=(null) JobState=PENDING Reason=ReqNodeNotAvail,_UnavailableNodes:n1 Dependency=(null) "
    "Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:15 RunTime=1-02:03:04 TimeLimit=1-00:00:00 TimeMin=N/A "
    "SubmitTime=2026-11-26T19:00:00 EligibleTime=2026-11-26T19:00:00 AccrueTime=Unknown StartTime=2026-11-26T22:10:00 "
    "EndTime=Unknown Deadline=N/A Partition=main AllocNode:Sid=ctl:12 ReqNodeList=(null) ExcNodeList=(null) "
    "NodeList=n[1-2] NumNodes=1-1 NumCPUs=1 NumTasks=1 CPUs/Task=1 Command=/data/a b JobState=RUNNING/run.sh "
    "WorkDir=/data Comment=two words StdErr=/data/log Power="
)


def test_a_line_of_scontrol_is_read_whatever_comes_after_in_paths() -> None:
    assert read_job(LINE) == SlurmJob(
        id="7",
        name="ladle-0a1b2c3d-01K9-abc-2",
        state="PENDING",
        reason="ReqNodeNotAvail,_UnavailableNodes:n1",
        exit_code=0,
        signal=15,
        run_time_s=93784.0,
        nodes="n[1-2]",
        starts_at="2026-11-26T22:10:00",
    )


def test_what_slurm_does_not_know_is_empty() -> None:
    found = read_job("JobId=7 JobName=x JobState=PENDING Reason=None NodeList=(null) StartTime=Unknown RunTime=INVALID")
    assert (found.reason, found.nodes, found.starts_at, found.run_time_s) == ("", "", "", 0.0)


def test_a_name_says_whose_the_job_is_and_is_not_mistaken(tmp_path: Path) -> None:
    job_id = "01K9ZZ-4f-2"
    name = name_of(tmp_path, job_id, 12)
    assert attempt_of(name, tmp_path) == Attempt(job_id=job_id, number=12)
    assert attempt_of(name, tmp_path / "of-another-ladle") is None
    for other in ("ladle", "ladle-run-3", "submitit", f"{name}-x", f"my-{name}"):
        assert attempt_of(other, tmp_path) is None


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "squeue: error: slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "scontrol: error: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying",
        "slurm_load_jobs error: Slurm backup controller in standby mode",
        'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory',
        "slurm_load_jobs error: Zero Bytes were transmitted or received",
        "scontrol: fatal: Could not establish a configuration source",
        "slurm_load_jobs error: Protocol authentication error",
    ],
)
def test_a_slurm_that_cannot_be_reached_is_not_one_that_refuses(words: str) -> None:
    assert isinstance(trouble(words), SlurmAway)


@pytest.mark.parametrize(
    ("words", "short"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "Invalid partition name specified",
        ),
        (
            "sbatch: error: Batch job submission failed: Node count specification invalid\n",
            "Node count specification invalid",
        ),
        (
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        ),
        ("", "no reason was given"),
    ],
)
def test_a_refusal_is_told_in_slurms_words_without_its_decoration(words: str, short: str) -> None:
    error = trouble(words)
    assert isinstance(error, SlurmRefused)
    assert str(error) == short


@pytest.mark.parametrize(
    ("text", "found"), [("00:00:07", 7.0), ("2-00:00:01", 172801.0), ("UNLIMITED", 0.0), ("", 0.0)]
)
def test_times_of_slurm_are_read(text: str, found: float) -> None:
    assert seconds(text) == found
