from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ladle_contracts import Reason
from ladle_worker.launch.kubernetes.states import Seen, last_words, obstacle, status_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
Json = dict[str, Any]


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": (NOW - timedelta(seconds=5)).isoformat().replace("+00:00", "Z"),
    }


def work(*conditions: Json, suspend: bool = False) -> Json:
    return {
        "metadata": {"name": "ladle-1", "uid": "u"},
        "spec": {"suspend": suspend},
        "status": {"conditions": [*conditions]},
    }


def pod(phase: str, state: Json | None = None, *conditions: Json, index: int = 0, reason: str = "") -> Json:
    containers = [{"name": "node", "image": "ladle-worker:1", "state": state}] if state else []
    return {
        "metadata": {"name": f"ladle-1-{index}"},
        "spec": {"nodeName": f"node-{index}"} if phase != "Pending" else {},
        "status": {"phase": phase, "conditions": [*conditions], "containerStatuses": containers, "reason": reason},
    }


def seen(*pods: Json, of: Json | None = None, **more: Any) -> Seen:
    return Seen(work=of or work(), num_nodes=max(1, len(pods)), pods=pods, now=NOW, **more)


def ended(code: int, reason: str = "Error", message: str = "") -> Json:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, "message": message}}


FAILED = work(condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
RUNNING = {"running": {"startedAt": "2026-11-26T11:59:00Z"}}
UNSCHEDULABLE = condition(
    "PodScheduled", "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "False"
)
UNBOUND = condition("PodScheduled", "Unschedulable", "pod has unbound immediate PersistentVolumeClaims.", "False")
NODE = "node-failed", Reason.NODE_LOST
TAKEN = "released", Reason.PREEMPTED
MOUNT = {"type": "Warning", "reason": "FailedMount", "message": "nfs: timed out"}
QUOTA = {
    "type": "Warning",
    "reason": "FailedCreate",
    "message": 'pods "ladle-1-0" is forbidden: exceeded quota: team, requested: pods=1, used: 8, limited: 8',
}
KUEUE = {
    "status": {
        "conditions": [
            condition(
                "QuotaReserved", "Pending", "insufficient unused quota for nvidia.com/gpu in flavor h100", "False"
            )
        ]
    }
}


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (seen(pod("Pending", None, UNSCHEDULABLE)), "Insufficient nvidia.com/gpu"),
        (seen(pod("Pending", None, UNBOUND)), "unbound immediate PersistentVolumeClaims"),
        (seen(events=[QUOTA]), "exceeded quota: team"),
        (seen(of=work(suspend=True), workloads=[KUEUE]), "is in Kueue's queue: Pending: insufficient unused quota"),
        (seen(of=work(suspend=True)), "is in Kueue's queue"),
        (seen(pod("Pending", waiting("ImagePullBackOff", "pull access denied"))), "the image `ladle-worker:1` of pod"),
        (seen(pod("Pending", waiting("CreateContainerConfigError", 'secret "s" not found'))), 'secret "s" not found'),
        (seen(pod("Running", RUNNING), pod("Pending", waiting("ContainerCreating"), index=1)), "1 of 2 run"),
        (seen(pod("Pending", waiting("ContainerCreating")), events=[MOUNT]), "nfs: timed out"),
        (seen(), "0 of 1 run"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_why_a_job_waits_passes_through(look: Seen, words: str) -> None:
    status = status_of(look)
    assert not status.is_over
    assert words in status.waits_for


def test_pods_that_run_or_have_ended_well_wait_for_nothing() -> None:
    assert not status_of(seen(pod("Running", RUNNING), pod("Succeeded", ended(0, "Completed"), index=1))).waits_for


def test_a_job_that_is_complete_is_over() -> None:
    status = status_of(seen(pod("Succeeded", ended(0)), of=work(condition("Complete"))))
    assert (status.is_over, status.code, status.ending) == (True, 0, None)


@pytest.mark.parametrize(
    ("reason", "message"),
    [("ImagePullBackOff", "manifest unknown"), ("ErrImageNeverPull", ""), ("CreateContainerConfigError", "no secret")],
)
def test_what_stays_in_the_way_of_a_container_fails_the_job_in_the_end(reason: str, message: str) -> None:
    look = {"patience_s": 60.0, "waited_s": 60.0}
    ending = status_of(seen(pod("Pending", waiting(reason, message)), **look)).ending
    assert ending is not None
    assert (ending.outcome, ending.reason) == (("failed", Reason.LAUNCH_FAILED))
    assert reason in ending.message
    assert message in ending.message


def test_a_name_that_is_no_image_fails_at_once() -> None:
    ending = status_of(seen(pod("Pending", waiting("InvalidImageName", "couldn't parse")))).ending
    assert ending is not None
    assert "couldn't parse" in ending.message


def test_having_no_room_never_fails_a_job() -> None:
    look = seen(pod("Pending", None, UNSCHEDULABLE), patience_s=1.0, waited_s=1e6)
    assert (obstacle(look), status_of(look).is_over) == ("", False)


def test_a_job_that_holds_half_of_its_pods_frees_them_in_the_end() -> None:
    pods = pod("Running", RUNNING), pod("Pending", None, UNSCHEDULABLE, index=1)
    assert obstacle(seen(*pods)) == "part"
    ending = status_of(seen(*pods, patience_s=60.0, waited_s=60.0)).ending
    assert ending is not None
    assert (ending.outcome, ending.reason) == ("released", Reason.NODES_CANNOT_MEET)
    assert "Only 1 of 2 pods" in ending.message


@pytest.mark.parametrize(
    ("look", "means"),
    [
        (seen(pod("Running", RUNNING, condition("DisruptionTarget", "DeletionByTaintManager"))), NODE),
        (seen(pod("Failed", None, condition("DisruptionTarget", "TerminationByKubelet"), reason="Evicted")), NODE),
        (seen(pod("Failed", None, reason="OutOfnvidia.com/gpu")), NODE),
        (seen(pod("Failed", None, reason="NodeShutdown")), NODE),
        (seen(pod("Running", RUNNING, condition("DisruptionTarget", "PreemptionByScheduler"))), TAKEN),
        (seen(pod("Running", RUNNING, condition("DisruptionTarget", "EvictionByEvictionAPI"))), TAKEN),
        # The pods may be gone already.
        (seen(of=work(condition("Failed", "PodFailurePolicy", "matching FailJob rule at index 0"))), NODE),
        (seen(of=work(condition("Failed", "FailedJobs")), jobs=[work(condition("Failed", "PodFailurePolicy"))]), NODE),
        # Kueue took its place away.
        (seen(of=work(suspend=True), had_run=True), TAKEN),
        # A peer's rank noticed first that the node was gone.
        (
            seen(
                pod("Failed", ended(1)), pod("Running", RUNNING, condition("Ready", status="False"), index=1), of=FAILED
            ),
            NODE,
        ),
        (seen(pod("Failed", ended(75)), of=FAILED), TAKEN),
    ],
    ids=lambda each: "" if isinstance(each, Seen) else str(each),
)
def test_what_the_cluster_does_to_a_job_does_not_count_as_its_failure(look: Seen, means: tuple[str, Reason]) -> None:
    ending = status_of(look).ending
    assert ending is not None
    assert (ending.outcome, ending.reason) == means


def test_a_failed_job_waits_for_pods_that_still_end_before_it_says_why() -> None:
    pods = pod("Failed", ended(1)), pod("Running", RUNNING, condition("Ready"), index=1)
    assert not status_of(seen(*pods, of=FAILED)).is_over
    late = Seen(work=FAILED, num_nodes=2, pods=pods, now=NOW + timedelta(minutes=2))
    ending = status_of(late).ending
    assert ending is not None
    assert ending.reason is Reason.NODE_LOST


def test_a_pod_that_fails_by_itself_gives_its_status() -> None:
    status = status_of(seen(pod("Failed", ended(1)), of=FAILED))
    assert (status.is_over, status.code, status.ending) == (True, 1, None)


def test_a_container_that_the_kernel_ends_is_out_of_memory() -> None:
    assert status_of(seen(pod("Failed", ended(137, "OOMKilled")), of=FAILED)).out_of_memory


@pytest.mark.parametrize(
    ("look", "means"),
    [
        (seen(of=work(condition("Failed", "DeadlineExceeded"))), ("failed", Reason.TIMED_OUT)),
        (
            seen(pod("Failed", ended(128, "StartError", "exec: python: not found")), of=FAILED),
            ("failed", Reason.LAUNCH_FAILED),
        ),
        # Its own limit, and not the node's pressure.
        (seen(pod("Failed", None, reason="Evicted"), of=FAILED), ("crashed", Reason.CRASHED)),
        (seen(of=FAILED), ("crashed", Reason.CRASHED)),
        (Seen(work=None, num_nodes=1), ("crashed", Reason.CRASHED)),
    ],
    ids=lambda each: "" if isinstance(each, Seen) else str(each),
)
def test_other_ends_are_the_jobs_own(look: Seen, means: tuple[str, Reason]) -> None:
    ending = status_of(look).ending
    assert ending is not None
    assert (ending.outcome, ending.reason) == means


def test_the_last_words_of_a_pod_that_failed_are_kept() -> None:
    words = last_words(
        [pod("Failed", ended(1, message="No module named ladle_worker")), pod("Running", RUNNING, index=1)]
    )
    assert words == ["pod `ladle-1-0` on node `node-0`:", "No module named ladle_worker"]
