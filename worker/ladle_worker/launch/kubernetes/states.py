"""What the objects of one attempt say, in Ladle's words. Nothing here talks to a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ladle_contracts import Reason
from ladle_worker.launch.kubernetes.manifests import CONTAINER
from ladle_worker.launch.launcher import Ending, Status
from ladle_worker.launch.on_node import INTERRUPTED

Manifest = Mapping[str, Any]

SETTLE_S = 60.0
"""How long a failed job waits for pods that still end. One that takes longer is on a node that is gone."""
NODE_REASONS = ("NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "UnexpectedAdmissionError")
"""Why a pod failed that had no part in it: `status.reason`. `OutOfcpu` and the like are others."""
PREEMPTIONS = ("PreemptionByScheduler", "EvictionByEvictionAPI", "Preempting")
"""Of them, those where the node is well: another pod came first, or somebody drains the node."""
BAD_NAMES = ("InvalidImageName",)
IMAGE_REASONS = ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "RegistryUnavailable", *BAD_NAMES)
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
CANNOT_START = ("StartError", "ContainerCannotRun")
OOM = "OOMKilled"
MAX_CHARS = 600


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look at the cluster."""

    work: Manifest | None
    """The `Job` or `TrainJob`. None if it is not there any more."""
    num_nodes: int
    jobs: Sequence[Manifest] = ()
    """Those that a `TrainJob` has made."""
    pods: Sequence[Manifest] = ()
    events: Sequence[Manifest] = ()
    """Of the work, its jobs and pods, where there is something to explain."""
    workloads: Sequence[Manifest] = ()
    """Of Kueue."""
    had_run: bool = False
    """Whether an earlier look saw all pods run."""
    waited_s: float = 0.0
    """How long the same thing has been in the way: see `obstacle`."""
    patience_s: float = 300.0
    now: datetime = field(default_factory=lambda: datetime.now().astimezone())


def status_of(seen: Seen) -> Status:
    """What the launcher tells the agent."""
    if seen.work is None:
        return _over(
            "crashed",
            Reason.CRASHED,
            "The job's object in Kubernetes was deleted, and not by Ladle. It may be started again.",
        )
    if (taken := taken_away(seen)) is not None:
        return Status(is_over=True, ending=taken)
    conditions = [*_conditions(seen.work), *(each for job in seen.jobs for each in _conditions(job))]
    if _condition(conditions, "Complete"):
        return Status(is_over=True, code=0)
    failed = _condition(conditions, "Failed")
    if failed is not None:
        return _failed(seen, failed, conditions)
    if _all_started(seen):
        return Status()
    return _waiting(seen)


def all_run(seen: Seen) -> bool:
    """For the next look's `had_run`."""
    return seen.work is not None and _all_started(seen)


def obstacle(seen: Seen) -> str:
    """What is in the way of the pods, as a word that stays the same while it is. Empty where waiting is ordinary."""
    for reason, _ in _container_waits(seen):
        if reason in IMAGE_REASONS:
            return "image"
        if reason in CONFIG_REASONS:
            return "container"
    if any(_is_running(pod) for pod in seen.pods) and not _all_started(seen):
        return "part"
    return ""


def taken_away(seen: Seen) -> Ending | None:
    """Why the job lost a pod through no fault of its own. None if it has not."""
    for pod in seen.pods:
        status = pod.get("status", {})
        disruption = _condition(_conditions(pod), "DisruptionTarget")
        if disruption is not None:
            return _taken(f"Kubernetes took {_name(pod)} away", disruption)
        reason = status.get("reason", "")
        if status.get("phase") == "Failed" and (reason in NODE_REASONS or reason.startswith("OutOf")):
            return _taken(f"Kubernetes took {_name(pod)} away", status)
    for job in [seen.work or {}, *seen.jobs]:
        for kind in ("FailureTarget", "Failed"):
            condition = _condition(_conditions(job), kind)
            if condition is not None and condition.get("reason") == "PodFailurePolicy":
                return _taken("Kubernetes took a pod of the job away", condition)
    if seen.had_run and _is_suspended(seen):
        why = next(_kueue_words(seen, ("Preempted", "Evicted")), "it is suspended")
        return Ending(outcome="released", reason=Reason.PREEMPTED, message=f"The job gave its place to another: {why}")
    return None


def _taken(what: str, said: Manifest) -> Ending:
    message = f"{what}: {_words(said)}"
    if said.get("reason") in PREEMPTIONS:
        return Ending(outcome="released", reason=Reason.PREEMPTED, message=message)
    return Ending(outcome="node-failed", reason=Reason.NODE_LOST, message=message)


def _failed(seen: Seen, failed: Manifest, conditions: Sequence[Manifest]) -> Status:
    if any(each.get("reason") == "DeadlineExceeded" and each.get("status") == "True" for each in conditions):
        return _over("failed", Reason.TIMED_OUT, f"The job reached its time limit: {_words(failed)}")
    ended = [(pod, state) for pod in seen.pods if (state := _terminated(pod)) is not None]
    bad = [(pod, state) for pod, state in ended if state.get("exitCode") != 0]
    if any(state.get("reason") == OOM for _, state in bad):
        return Status(is_over=True, code=137, out_of_memory=True)
    for pod, state in bad:
        if state.get("reason") in CANNOT_START:
            return _over("failed", Reason.LAUNCH_FAILED, f"{_name(pod)} cannot run the container: {_words(state)}")
    if (lost := _lost(seen, failed)) is not None:
        return lost
    for pod in seen.pods:
        if pod.get("status", {}).get("reason") == "Evicted":
            return _over("crashed", Reason.CRASHED, f"Kubernetes ended {_name(pod)}: {_words(pod['status'])}")
    if any(state.get("exitCode") == INTERRUPTED for _, state in bad):
        return _over("released", Reason.PREEMPTED, "A pod was asked to end. The job goes on from its last saved step.")
    if bad:
        return Status(is_over=True, code=int(bad[0][1].get("exitCode", 1)))
    return _over("crashed", Reason.CRASHED, f"The job failed in Kubernetes: {_words(failed)}")


def _lost(seen: Seen, failed: Manifest) -> Status | None:
    """Whether the job failed because a node is gone. A pod there never ends: it may take until that is certain."""
    open_pods = [pod for pod in seen.pods if pod.get("status", {}).get("phase") in ("Running", "Unknown")]
    if not open_pods:
        return None
    for pod in open_pods:
        ready = next((each for each in _conditions(pod) if each.get("type") == "Ready"), {})
        silent = ready.get("status") == "False" and _terminated(pod) is None
        if silent or pod["status"].get("phase") == "Unknown":
            return _over("node-failed", Reason.NODE_LOST, f"The node of {_name(pod)} does not answer any more.")
    since = _time(failed.get("lastTransitionTime"))
    if since is None or (seen.now - since).total_seconds() < SETTLE_S:
        return Status()
    names = ", ".join(_name(pod) for pod in open_pods)
    return _over("node-failed", Reason.NODE_LOST, f"The job failed, and {names} cannot be ended: its node may be gone.")


def _waiting(seen: Seen) -> Status:
    why = _why_waiting(seen)
    kind = obstacle(seen)
    for reason, words in _container_waits(seen):
        if reason in BAD_NAMES or (kind == "image" and seen.waited_s >= seen.patience_s):
            return _over("failed", Reason.LAUNCH_FAILED, f"The job cannot start: it {words}")
        if kind == "container" and seen.waited_s >= seen.patience_s:
            return _over("failed", Reason.LAUNCH_FAILED, f"The job cannot start: it {words}")
    if kind == "part" and seen.waited_s >= seen.patience_s:
        running = sum(map(_is_running, seen.pods))
        # Another job may hold what this one lacks, and lack what it holds.
        message = f"Only {running} of {seen.num_nodes} pods could start, and now free their places: the job {why}"
        return _over("released", Reason.NODES_CANNOT_MEET, message)
    return Status(waits_for=why)


def _why_waiting(seen: Seen) -> str:
    if _is_suspended(seen) or (seen.workloads and not seen.pods):
        kueue = next(iter(_kueue_words(seen, ("QuotaReserved", "Admitted"), status="False")), "")
        if kueue or _is_suspended(seen):
            return f"is in Kueue's queue: {kueue}" if kueue else "is in Kueue's queue"
    for _, words in _container_waits(seen):
        return words
    for pod in seen.pods:
        scheduled = next((each for each in _conditions(pod) if each.get("type") == "PodScheduled"), {})
        if scheduled.get("status") == "False":
            return f"waits for a node for {_name(pod)}: {_words(scheduled)}"
    for event in reversed(seen.events):
        if event.get("type") == "Warning":
            return f"waits for its pods: {_words(event)}"
    started = sum(map(_has_started, seen.pods))
    return f"waits for its pods: {started} of {seen.num_nodes} run"


def _container_waits(seen: Seen) -> Iterator[tuple[str, str]]:
    """Of containers that cannot start: the reason, and words for it."""
    for pod in seen.pods:
        status = pod.get("status", {})
        for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            waiting = container.get("state", {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if reason in IMAGE_REASONS:
                yield reason, f"waits for the image `{container.get('image', '')}` of {_name(pod)}: {_words(waiting)}"
            elif reason in CONFIG_REASONS:
                yield reason, f"waits for the container of {_name(pod)}: {_words(waiting)}"


def _kueue_words(seen: Seen, kinds: Sequence[str], status: str = "True") -> Iterator[str]:
    for workload in seen.workloads:
        for condition in _conditions(workload):
            if condition.get("type") in kinds and condition.get("status") == status:
                yield _words(condition)


def _is_suspended(seen: Seen) -> bool:
    return bool((seen.work or {}).get("spec", {}).get("suspend"))


def _all_started(seen: Seen) -> bool:
    return sum(map(_has_started, seen.pods)) >= seen.num_nodes


def _has_started(pod: Manifest) -> bool:
    return pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")


def _is_running(pod: Manifest) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")


def _terminated(pod: Manifest) -> Manifest | None:
    for container in pod.get("status", {}).get("containerStatuses", []):
        if container.get("name") == CONTAINER:
            state: Manifest | None = container.get("state", {}).get("terminated")
            return state
    return None


def last_words(pods: Sequence[Manifest]) -> list[str]:
    """The end of what pods that failed have printed, as Kubernetes keeps it."""
    lines: list[str] = []
    for pod in pods:
        state = _terminated(pod)
        if state is not None and state.get("exitCode") != 0 and state.get("message"):
            lines += [f"{_name(pod)}:", *str(state["message"]).splitlines()]
    return lines


def _conditions(manifest: Manifest) -> Sequence[Manifest]:
    conditions: Sequence[Manifest] = manifest.get("status", {}).get("conditions") or ()
    return conditions


def _condition(conditions: Sequence[Manifest], kind: str) -> Manifest | None:
    """The one of this kind, if it is true."""
    return next((each for each in conditions if each.get("type") == kind and each.get("status") == "True"), None)


def _name(pod: Manifest) -> str:
    node = pod.get("spec", {}).get("nodeName")
    name = f"pod `{pod['metadata']['name']}`"
    return f"{name} on node `{node}`" if node else name


def _words(said: Manifest) -> str:
    """Reason and message, as Kubernetes gives them."""
    words = ": ".join(str(each).strip() for each in (said.get("reason"), said.get("message")) if each)
    return words[:MAX_CHARS] or "no reason is given"


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _over(outcome: str, reason: Reason, message: str) -> Status:
    return Status(is_over=True, ending=Ending(outcome=outcome, reason=reason, message=message))
