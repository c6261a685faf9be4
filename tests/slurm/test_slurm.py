"""Jobs that a dispatcher hands over to a real Slurm: as they should go, and through everything that happens there."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from ladle_contracts import JobState, Reason
from tests.polling import until
from tests.servers import running
from tests.slurm.conftest import Stack
from tests.slurm.mini import why_not

REFUSED = why_not()
pytestmark = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)


@pytest.mark.parametrize(("nodes", "ranks"), [(1, None), (2, 1), (2, 2)])
def test_a_job_on_slurm_finds_what_one_rank_finds(
    nodes: int, ranks: int | None, ready: Stack, alone: list[list[float]]
) -> None:
    ended = ready.made.finish(ready.made.submit(ready.spec(nodes, ranks)))
    assert (ended.state, ended.attempt, ended.nodes) == (JobState.SUCCEEDED, 1, ("dispatcher",)), ended
    np.testing.assert_allclose(ready.alpha(), alone, rtol=0, atol=1e-5)
    assert not ready.slurm.jobs()
    until(lambda: not list((ready.results / ".ladle").iterdir()), what="its working folder to be removed")


def test_a_dispatcher_says_what_it_is_and_holds_several_jobs(ready: Stack) -> None:
    ready.gate.hold("start")
    jobs = [
        ready.made.submit(
            spec.model_copy(update={"output": None or spec.output.model_copy(update={"name": f"out-{n}"})})
        )
        for n, spec in enumerate([ready.spec()] * 3)
    ]
    until(lambda: len(ready.slurm.jobs()) == 3, what="three jobs of Slurm")
    (node,) = ready.made.call(ready.made.store.nodes())
    assert (node.dispatches, node.holds, sorted(node.job_ids)) == (True, 3, sorted(jobs))
    ready.gate.let_pass("start")
    ready.gate.open("start")
    assert {ready.made.finish(job).state for job in jobs} == {JobState.SUCCEEDED}


def test_a_cancel_ends_the_ranks_of_every_machine_and_leaves_nothing(ready: Stack) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec(nodes=2))
    ready.wait_at("train-17", job)
    assert ready.processes(job)
    ready.made.call(ready.made.store.cancel(job))
    assert ready.made.finish(job).state == JobState.CANCELLED
    until(lambda: not ready.processes(job), what="the ranks to end")
    until(lambda: not ready.slurm.jobs(), what="Slurm's job to end")
    until(lambda: not list((ready.results / ".ladle").iterdir()), what="its working folder to be removed")
    assert not [path for path in ready.results.iterdir() if path.name not in ("gates", ".ladle")]


def test_a_job_that_is_cancelled_while_slurm_lets_it_wait_leaves_the_queue(ready: Stack) -> None:
    ready.slurm.ask("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    job = ready.made.submit(ready.spec())
    waiting = ready.wait_for_reason(job, "is in Slurm's queue as job")
    assert waiting.state == JobState.RUNNING
    ready.wait_for_reason(job, "the nodes that it needs are busy (Resources)")
    ready.made.call(ready.made.store.cancel(job))
    assert ready.made.finish(job).state == JobState.CANCELLED
    until(lambda: not any(name.startswith("ladle-") for name in ready.slurm.jobs().values()), what="the queue")


def test_a_pre_empted_job_waits_in_words_and_goes_on_from_its_last_step(ready: Stack, alone: list[list[float]]) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    ready.slurm.ask("sbatch", "--job-name=urgent", *urgent, "--wrap=sleep 600")
    ready.wait_for_reason(job, "is in Slurm's queue as job")
    record = ready.made.record(job)
    assert (record.attempt, record.failures) == (2, 0)
    told = [event.body for event in ready.made.events(job) if event.body.kind == "state"]
    assert [body.reason for body in told if body.state == JobState.QUEUED][-1] == Reason.PREEMPTED, told
    ready.gate.let_pass("train-17")
    ready.slurm.ask("scancel", "--name=urgent")
    ended = ready.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended.message
    assert ready.alpha() == alone
    told = [event.body for event in ready.made.events(job) if event.attempt == 2 and event.body.kind == "step"]
    assert min(body.step for body in told if body.stage == "train") >= 16, "it began anew"


@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_a_job_that_slurm_signals_before_its_end_is_tried_again_without_counting(name: str, ready: Stack) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec(nodes=2))
    ready.wait_at("train-17", job)
    ready.gate.let_pass("train-17")
    ready.slurm.ask("scancel", f"--signal={name}", ready.slurm_job())
    ended = ready.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended.message


def test_a_job_goes_on_without_a_machine_that_was_killed(ready: Stack, alone: list[list[float]]) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    lost = ready.machine_of(ready.slurm_job())
    ready.gate.let_pass("train-17")
    ready.slurm.kill(lost)
    ended = ready.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended.message
    told = [event.body for event in ready.made.events(job) if event.body.kind == "state"]
    failed = next(body for body in told if body.state == JobState.QUEUED and body.reason)
    assert (failed.reason, lost in (failed.message or "")) == (Reason.NODE_LOST, True), failed
    assert ready.alpha() == alone


def test_a_job_of_two_machines_that_loses_one_blames_no_rank_and_goes_on_when_it_is_back(ready: Stack) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec(nodes=2))
    ready.wait_at("train-17", job)
    ready.gate.let_pass("train-17")
    ready.slurm.kill("n2")
    until(lambda: ready.made.record(job).state == JobState.QUEUED, what="the end of the attempt")
    assert ready.made.record(job).reason in (Reason.NODES_CANNOT_MEET, Reason.NODE_LOST)
    ready.slurm.daemons["n2"].start()
    ended = ready.made.finish(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0), ended.message


def test_a_step_behind_a_cut_cable_ends_by_itself_and_changes_nothing(ready: Stack, alone: list[list[float]]) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    cut = ready.machine_of(ready.slurm_job())
    orphans = ready.processes(job)
    assert orphans
    ready.gate.let_pass("train-17")
    ready.slurm.machines[cut].cut()
    ended = ready.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended.message
    assert ready.alpha() == alone
    until(lambda: not ready.processes(job), what="the orphaned step to end, although nothing reaches it")


def test_a_dispatcher_that_is_killed_finds_its_orphans_and_the_job_goes_on(
    ready: Stack, alone: list[list[float]]
) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    first = ready.slurm_job()
    ready.gate.let_pass("train-17")
    ready.dispatchers[0].kill()
    with running(ready.dispatcher()):
        ended = ready.made.finish(job)
    # One attempt may have been meant for the dispatcher while it was dead.
    assert (ended.state, ended.failures, ended.attempt > 1) == (JobState.SUCCEEDED, 0, True), ended
    assert ready.slurm.field_of(first, "JobState") in ("CANCELLED", "COMPLETED", "FAILED")
    assert ready.alpha() == alone


def test_what_a_dispatcher_left_in_slurm_is_ended_when_it_comes_back(stack: Stack) -> None:
    with running(stack.dispatcher()) as dispatcher:
        stack.gate.hold("train-17")
        job = stack.made.submit(stack.spec())
        stack.wait_at("train-17", job)
        left = stack.slurm_job()
        dispatcher.kill()
    stack.made.call(stack.made.store.cancel(job))
    until(lambda: stack.made.record(job).state == JobState.CANCELLED, what="the end of the job")
    assert left in stack.slurm.jobs()
    with running(stack.dispatcher()):
        until(lambda: left not in stack.slurm.jobs(), what="the left-over to be ended")


def test_a_dispatcher_that_is_stopped_hands_its_jobs_back(ready: Stack) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    ready.gate.let_pass("train-17")
    assert ready.dispatchers[0].stop() == 0
    record = ready.made.record(job)
    assert (record.state, record.failures) == (JobState.QUEUED, 0), record
    until(lambda: not ready.slurm.jobs(), what="Slurm's job to end")
    with running(ready.dispatcher()):
        assert ready.made.finish(job).state == JobState.SUCCEEDED


def test_a_job_waits_while_slurm_does_not_answer(ready: Stack) -> None:
    ready.slurm.controller.kill()
    job = ready.made.submit(ready.spec())
    waiting = ready.wait_for_reason(job, "needs Slurm, which does not answer")
    assert waiting.state == JobState.RUNNING
    ready.slurm.controller.start()
    assert ready.made.finish(job).state == JobState.SUCCEEDED


def test_ranks_go_on_while_the_controller_is_away(ready: Stack) -> None:
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    ready.slurm.controller.kill()
    ready.gate.open("train-17")
    until(lambda: ready.made.record(job).progress.stage in ("select", "write", "verify"), what="the job to go on")
    ready.slurm.controller.start()
    ended = ready.made.finish(job)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), ended.message


def test_a_job_beyond_the_operators_limits_is_refused_and_one_beyond_slurms_waits_and_says_why(stack: Stack) -> None:
    with running(stack.dispatcher(SLURM_MAX_NODES="3")):
        ended = stack.made.finish(stack.made.submit(stack.spec(nodes=4)))
        assert (ended.state, ended.reason, ended.attempt) == (JobState.FAILED, Reason.LAUNCH_FAILED, 1), ended
        assert "`resources.nodes` must be at most 3 on this Slurm" in (ended.message or "")
        job = stack.made.submit(stack.spec(nodes=3))
        stack.wait_for_reason(job, "it asks for more nodes than the partition has or allows (PartitionNodeLimit)")


def test_a_job_that_slurm_refuses_is_told_its_words(stack: Stack) -> None:
    """The partition was there when the dispatcher started."""
    stack.slurm.ask("scontrol", "create", "partitionname=gone", "nodes=n1", "maxtime=2-0", "state=up")
    with running(stack.dispatcher(SLURM_PARTITION="gone")):
        until(lambda: stack.made.call(stack.made.store.nodes()), what="the dispatcher to register")
        stack.slurm.ask("scontrol", "delete", "partitionname=gone")
        ended = stack.made.finish(stack.made.submit(stack.spec()))
    assert (ended.state, ended.reason, ended.attempt) == (JobState.FAILED, Reason.LAUNCH_FAILED, 1), ended
    assert "Slurm refuses the job: Invalid partition" in (ended.message or ""), ended.message


def test_a_job_that_slurm_refuses_for_now_waits(ready: Stack) -> None:
    ready.slurm.ask("scontrol", "update", "partitionname=main", "state=inactive")
    try:
        job = ready.made.submit(ready.spec())
        waiting = until(lambda: (record := ready.made.record(job)).waiting_for and record, what="a reason")
    finally:
        ready.slurm.ask("scontrol", "update", "partitionname=main", "state=up")
    assert waiting.state == JobState.RUNNING
    assert ready.made.finish(job).state == JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SLURM_PARTITION": "nope"}, "invalid partition"),
        ({"SLURM_TIME": "9-0"}, "`LADLE_SLURM_TIME` must be at most 2-00:00:00"),
        ({"SLURM_TIME": "soon"}, "`LADLE_SLURM_TIME` must be a time as Slurm writes it"),
        ({"SLURM_MEM": "900G"}, "Requested node configuration is not available"),
        ({"SLURM_SETUP": "/nowhere/setup.sh"}, "`LADLE_SLURM_SETUP` must be a shell script"),
    ],
)
def test_wrong_settings_are_explained_at_start(settings: dict[str, str], words: str, stack: Stack) -> None:
    with running(stack.dispatcher(**settings)) as dispatcher:
        assert dispatcher.process is not None
        assert dispatcher.process.wait(timeout=120) == 2, dispatcher.text()
        assert words.lower() in dispatcher.text().lower()
        assert "Traceback" not in dispatcher.text()


def test_a_stopped_machine_costs_no_result(ready: Stack) -> None:
    """All its processes stand still, and go on after the job has ended elsewhere."""
    ready.gate.hold("train-17")
    job = ready.made.submit(ready.spec())
    ready.wait_at("train-17", job)
    daemon = ready.slurm.daemons[ready.machine_of(ready.slurm_job())]
    frozen = daemon.tree()
    ready.gate.let_pass("train-17")
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    try:
        ended = ready.made.finish(job)
        result = (ready.results / "out/coefficients.json").read_bytes()
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended.message
    until(lambda: not ready.processes(job), what="the thawed ranks to end")
    assert (ready.results / "out/coefficients.json").read_bytes() == result
