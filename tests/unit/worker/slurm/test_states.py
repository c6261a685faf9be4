"""What Slurm's states and reasons become: what the user reads, and what becomes of the attempt."""

from __future__ import annotations

import pytest

from ladle_contracts import Reason
from ladle_worker.launch.launcher import Status
from ladle_worker.launch.on_node import INTERRUPTED
from ladle_worker.launch.slurm.commands import SlurmJob
from ladle_worker.launch.slurm.states import status_of

HOUR_S = 3600.0


def job(state: str, **fields: object) -> SlurmJob:
    return SlurmJob(**{"id": "7", "name": "ladle", "state": state, "nodes": "n[1-2]", **fields})  # type: ignore[arg-type]


def status(found: SlurmJob, *, is_interrupted: bool = False, has_gone_on: bool = True) -> Status:
    return status_of(found, is_interrupted=is_interrupted, has_gone_on=has_gone_on, limit_s=HOUR_S)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "is in Slurm's queue as job 7: the nodes that it needs are busy (Resources)"),
        ("Priority", "is in Slurm's queue as job 7: jobs of higher priority come first (Priority)"),
        ("Dependency", "is in Slurm's queue as job 7: its earlier attempt is still being ended (Dependency)"),
        ("JobHeldUser", "is in Slurm's queue as job 7: it is held; `scontrol release 7` lets it go (JobHeldUser)"),
        ("QOSMaxJobsPerUserLimit", "is in Slurm's queue as job 7: a limit of the account or the QOS is reached"),
        ("AssocGrpGRES", "is in Slurm's queue as job 7: a limit of the account or the QOS is reached (AssocGrpGRES)"),
        ("ReqNodeNotAvail,_UnavailableNodes:n1", "nodes that it needs are down, drained or reserved (ReqNodeNotAvail,"),
        ("SomethingNew", "is in Slurm's queue as job 7: Slurm's reason is (SomethingNew)"),
        ("", "is in Slurm's queue as job 7: Slurm has not looked at it yet"),
    ],
)
def test_a_waiting_job_says_why_in_words_and_in_slurms(reason: str, words: str) -> None:
    found = status(job("PENDING", reason=reason))
    assert words in found.waits_for
    assert not found.is_over


def test_when_slurm_expects_it_to_start_is_told() -> None:
    told = status(job("PENDING", reason="Resources", starts_at="2026-11-26T22:10:00")).waits_for
    assert told.endswith("(Resources). Slurm expects it to start at 2026-11-26T22:10:00")


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "SUSPENDED", "STOPPED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_a_job_that_does_not_run_waits_for_something(state: str) -> None:
    assert status(job(state)).waits_for


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "STAGE_OUT"])
def test_a_job_that_runs_or_ends_waits_for_nothing(state: str) -> None:
    assert status(job(state)) == Status()


@pytest.mark.parametrize(
    ("found", "outcome", "reason"),
    [
        (job("PREEMPTED"), "released", Reason.PREEMPTED),
        (job("TIMEOUT"), "released", Reason.PREEMPTED),
        (job("DEADLINE"), "released", Reason.PREEMPTED),
        (job("NODE_FAIL"), "node-failed", Reason.NODE_LOST),
        (job("BOOT_FAIL"), "node-failed", Reason.NODE_LOST),
        (job("CANCELLED"), "failed", Reason.CANCELLED),
        (job("FAILED", exit_code=INTERRUPTED, run_time_s=60.0), "released", Reason.PREEMPTED),
    ],
)
def test_an_end_that_the_ranks_cannot_tell_of_has_a_reason_and_counts_only_if_it_is_the_jobs(
    found: SlurmJob, outcome: str, reason: Reason
) -> None:
    over = status(found)
    assert over.ending is not None
    assert (over.is_over, over.ending.outcome, over.ending.reason) == (True, outcome, reason)
    assert "Slurm job 7 on n[1-2]" in over.ending.message


def test_an_allocation_that_was_too_short_to_save_anything_counts_so_that_no_job_goes_round_for_ever() -> None:
    for found in (job("TIMEOUT"), job("FAILED", exit_code=INTERRUPTED, run_time_s=HOUR_S)):
        ending = status(found, has_gone_on=False).ending
        assert ending is not None
        assert (ending.outcome, "Set a longer time" in ending.message) == ("crashed", True)


def test_ranks_that_were_asked_to_end_shortly_before_the_end_of_the_time_go_on_in_another_allocation() -> None:
    ending = status(job("FAILED", exit_code=1, run_time_s=HOUR_S), is_interrupted=True).ending
    assert ending is not None
    assert (ending.outcome, "time of Slurm job 7" in ending.message) == ("released", True)


def test_memory_and_exit_statuses_come_through() -> None:
    assert status(job("OUT_OF_MEMORY")).out_of_memory
    assert status(job("COMPLETED")) == Status(is_over=True, code=0)
    assert status(job("FAILED", exit_code=3)) == Status(is_over=True, code=3)
    assert status(job("FAILED", signal=9)) == Status(is_over=True, code=137)
