"""Jobs that a dispatcher hands over to Kubernetes (a stand-in): as they should go, and through what happens there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ladle_contracts import JobState, Reason
from ladle_contracts.events import StateChanged
from tests.cluster.hosts import why_not
from tests.kubernetes.stack import POD, Stack
from tests.polling import until

REFUSED = why_not()
pytestmark = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)

KINDS = pytest.mark.parametrize("options", [{}, {"has_trainer": True}], ids=["job", "train-job"])


def reasons(stack: Stack, job: str) -> list[Reason | None]:
    """Why attempts went back to the queue."""
    told = [event.body for event in stack.made.events(job)]
    queued = [body for body in told if isinstance(body, StateChanged) and body.state == JobState.QUEUED]
    return [body.reason for body in queued[1:]]


@KINDS
def test_a_job_of_two_pods_finds_what_one_rank_of_a_worker_finds(stack: Stack, alone: list[list[float]]) -> None:
    job = stack.submit_and_hold(stack.spec(nodes=2), "train-3")
    assert sorted(pod.host.name for pod in stack.kubernetes.running() if pod.host) == ["n1", "n2"]
    stack.gate.let_pass("train-3")
    stack.gate.open("train-3")
    ended = stack.made.finish(job)
    assert (ended.state, ended.attempt, ended.nodes) == (JobState.SUCCEEDED, 1, ("dispatcher",)), ended
    np.testing.assert_allclose(stack.alpha(), alone, rtol=0, atol=1e-5)
    until(stack.is_clean, what="all of the job to go")
    assert stack.used_rights() <= stack.allowed_rights()


@KINDS
def test_a_cancel_ends_every_pod_and_leaves_nothing(stack: Stack) -> None:
    job = stack.submit_and_hold(stack.spec(nodes=2))
    stack.made.call(stack.made.store.cancel(job))
    assert stack.made.finish(job).state == JobState.CANCELLED
    until(stack.is_clean, what="all of the job to go")


@KINDS
@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("DeletionByTaintManager", Reason.NODE_LOST),
        ("EvictionByEvictionAPI", Reason.PREEMPTED),
        ("PreemptionByScheduler", Reason.PREEMPTED),
    ],
)
def test_a_job_goes_on_without_a_pod_that_was_taken_away(
    why: str, reason: Reason, stack: Stack, alone: list[list[float]]
) -> None:
    job = stack.submit_and_hold(stack.spec())
    stack.gate.let_pass("train-17")
    stack.pod().take_away(why)
    ended = stack.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended
    assert reasons(stack, job) == [reason]
    assert stack.alpha() == alone, "it goes on from the saved step, bit for bit"
    until(stack.is_clean, what="all of the job to go")


def test_a_pod_that_dies_by_itself_counts_and_the_job_goes_on(stack: Stack, alone: list[list[float]]) -> None:
    job = stack.submit_and_hold(stack.spec(nodes=2))
    stack.gate.let_pass("train-17")
    stack.kubernetes.running()[1].kill()
    ended = stack.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 1), ended
    np.testing.assert_allclose(stack.alpha(), alone, rtol=0, atol=1e-5)


def test_a_dispatcher_that_is_killed_finds_its_orphans_and_the_job_goes_on(
    stack: Stack, alone: list[list[float]]
) -> None:
    job = stack.submit_and_hold(stack.spec())
    (first,) = stack.kubernetes.jobs()
    stack.dispatcher.kill()
    assert stack.kubernetes.running(), "Kubernetes knows nothing of it"
    stack.gate.let_pass("train-17")
    stack.dispatcher.start()
    ended = stack.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended
    assert first not in stack.kubernetes.jobs()
    assert stack.alpha() == alone
    until(stack.is_clean, what="all of the job to go")


def test_what_is_left_of_a_job_that_was_cancelled_while_no_dispatcher_ran_is_removed(stack: Stack) -> None:
    job = stack.submit_and_hold(stack.spec())
    stack.dispatcher.kill()
    stack.made.call(stack.made.store.cancel(job))
    assert stack.made.finish(job).state == JobState.CANCELLED
    assert stack.kubernetes.jobs()
    stack.dispatcher.start()
    until(stack.is_clean, what="all of the job to go")


def test_a_job_runs_on_while_the_api_server_is_away(stack: Stack, alone: list[list[float]]) -> None:
    job = stack.submit_and_hold(stack.spec())
    stack.kubernetes.close()
    stack.gate.let_pass("train-17")
    stack.gate.open("train-17")
    until(lambda: not stack.kubernetes.running(), what="the pod to end")
    stack.kubernetes.open()
    ended = stack.made.finish(job)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), ended
    assert stack.alpha() == alone


def test_a_job_waits_for_an_api_server_that_is_away(stack: Stack) -> None:
    stack.kubernetes.close()
    job = stack.made.submit(stack.spec())
    stack.wait_for_reason(job, "needs Kubernetes, which does not answer: ")
    stack.kubernetes.open()
    assert stack.made.finish(job).state == JobState.SUCCEEDED


def test_a_cancel_does_not_wait_for_an_api_server_that_is_away(stack: Stack) -> None:
    job = stack.submit_and_hold(stack.spec())
    stack.kubernetes.close()
    stack.made.call(stack.made.store.cancel(job))
    # The pods see in the attempt's folder that it is over.
    until(lambda: not stack.kubernetes.running(), what="the pods to end by themselves")
    assert stack.made.finish(job).state == JobState.CANCELLED
    stack.kubernetes.open()
    until(stack.is_clean, what="the sweep to remove what is left")


@pytest.mark.parametrize("options", [{"settings": {"KUBERNETES_QUEUE": "team-a"}, "queue_is_open": False}])
def test_a_job_waits_in_the_queue_of_kueue_and_again_when_it_is_pre_empted(
    stack: Stack, alone: list[list[float]]
) -> None:
    stack.gate.hold("train-17")
    job = stack.made.submit(stack.spec())
    stack.wait_for_reason(job, "is in Kueue's queue: Pending: insufficient unused quota for nvidia.com/gpu")
    stack.kubernetes.queue_is_open = True
    until(lambda: stack.gate.reached("train-17"), what="the job to run")
    stack.kubernetes.queue_is_open = False
    stack.wait_for_reason(job, "is in Kueue's queue")
    assert reasons(stack, job) == [Reason.PREEMPTED]
    stack.gate.let_pass("train-17")
    stack.kubernetes.queue_is_open = True
    ended = stack.made.finish(job)
    assert (ended.state, ended.attempt, ended.failures) == (JobState.SUCCEEDED, 2, 0), ended
    assert stack.alpha() == alone


@pytest.mark.parametrize("options", [{"room": 1, "settings": {"KUBERNETES_PATIENCE_S": "1"}}])
def test_a_job_of_which_only_half_can_start_frees_its_place_and_tries_again(stack: Stack) -> None:
    job = stack.made.submit(stack.spec(nodes=2))
    until(lambda: Reason.NODES_CANNOT_MEET in reasons(stack, job), what="the first half to give up")
    stack.kubernetes.room = 2
    ended = stack.made.finish(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0), ended


def test_a_dispatcher_holds_several_jobs(stack: Stack) -> None:
    stack.gate.hold("start")
    jobs = []
    for name in ("one", "two", "three"):
        spec = stack.spec()
        jobs.append(
            stack.made.submit(spec.model_copy(update={"output": spec.output.model_copy(update={"name": name})}))
        )
    until(lambda: len(stack.kubernetes.running()) == 2, what="two pods")
    assert stack.made.record(jobs[2]).state == JobState.QUEUED
    stack.gate.let_pass("start")
    stack.gate.open("start")
    assert {stack.made.finish(job).state for job in jobs} == {JobState.SUCCEEDED}


def test_more_ranks_than_a_pod_has_gpus_are_refused(stack: Stack) -> None:
    text = POD.format(image="ladle-worker").replace("memory: 4Gi", "nvidia.com/gpu: 2")
    (stack.folder / "pod.yaml").write_text(text)
    ended = stack.made.finish(stack.made.submit(stack.spec(ranks=4)))
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.LAUNCH_FAILED)
    assert ended.message == (
        "`resources.ranks_per_node` must be at most 2, the GPUs of a pod of this cluster, but is 4."
    )


def test_a_job_that_is_refused_says_why(stack: Stack) -> None:
    changes: Any = "terminationGracePeriodSeconds: soon, containers:"
    (stack.folder / "pod.yaml").write_text("{spec: {" + changes + " [{name: node, image: ladle-worker}]}}")
    job = stack.made.submit(stack.spec())
    stack.wait_for_reason(job, "is refused by Kubernetes for now: Job is invalid: 'soon' is not of type")
