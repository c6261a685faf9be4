"""One attempt as objects of Kubernetes. Nothing here talks to a cluster."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_worker.launch.machine import ADDRESS, MEET, NODE_RANK, NUM_NODES

Manifest = dict[str, Any]

CONTAINER = "node"
"""The name that Kubeflow Trainer gives to the container that trains, and to the job that it is in."""
ON_NODE = "ladle_worker.launch.on_node"
PORT = 29400
"""The port of the service. It opens nothing: pods find each other's addresses in the attempt's folder."""

LABEL_JOB = "ladle/job"
LABEL_ATTEMPT = "ladle/attempt"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
LABEL_JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
COMMON_LABELS = {"app.kubernetes.io/name": "ladle", "app.kubernetes.io/component": "ranks"}
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"

LOST_AFTER_S = 30
"""How long a pod stays on a node that does not answer. Kubernetes' own default is five minutes."""
GRACE_S = 15
GONE_NODES = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
WRITABLE = {"/tmp": {}, "/dev/shm": {"medium": "Memory"}}  # noqa: S108 - paths inside the container
"""Folders that a container with a read-only root needs besides its volumes, each as an `emptyDir`."""


class WrongTemplate(ValueError):
    """The pod template cannot be used. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the manifests of one attempt are made of."""

    job_id: str
    number: int
    folder: Path
    num_nodes: int
    ranks_per_node: int | None
    """None: one rank for each GPU of the pod."""
    timeout_s: int | None
    queue: str | None
    gpu: str
    keep_s: int

    @property
    def name(self) -> str:
        """A DNS label, which leaves room for what Kubernetes appends in the names of pods."""
        return f"ladle-{self.job_id.lower()}-{self.number}"

    @property
    def labels(self) -> dict[str, str]:
        return {
            **COMMON_LABELS,
            LABEL_JOB: self.job_id,
            LABEL_ATTEMPT: str(self.number),
            **({LABEL_QUEUE: self.queue} if self.queue else {}),
        }


def read_template(text: str) -> Manifest:
    """A pod template from YAML. Raises `WrongTemplate`."""
    import yaml

    try:
        template = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongTemplate(f"must be YAML, but: {error}") from error
    if (
        not isinstance(template, dict)
        or not isinstance(template.get("spec"), dict)
        or set(template)
        - {
            "metadata",
            "spec",
        }
    ):
        raise WrongTemplate("must be a pod template with `spec`, and possibly `metadata`, and nothing else")
    containers = template["spec"].get("containers")
    if not isinstance(containers, list) or not all(isinstance(each, dict) for each in containers):
        raise WrongTemplate("must have a list `spec.containers`")
    node = [each for each in containers if each.get("name") == CONTAINER]
    if len(node) != 1 or not node[0].get("image"):
        raise WrongTemplate(f"must have one container named `{CONTAINER}`, with an `image`")
    return template


def pod_template(template: Manifest) -> Manifest:
    """The operator's template, with all that pods of Ladle have in common. What the operator sets stays as it is, apart
    from what the container runs, and that pods never restart and get no token of a service account."""
    pod = deepcopy(template)
    metadata = pod.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **COMMON_LABELS}
    spec = pod["spec"]
    spec |= {"restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False}
    spec.setdefault("terminationGracePeriodSeconds", GRACE_S)
    spec["securityContext"] = POD_SECURITY | (spec.get("securityContext") or {})
    _tolerate_lost_nodes(spec)
    container = node_container(pod)
    for field in ("command", "args"):
        container.pop(field, None)
    if container.get("resources"):
        container["resources"] = _with_words(container["resources"])
    container["securityContext"] = CONTAINER_SECURITY | (container.get("securityContext") or {})
    # The last lines of a pod that fails before it can write to the attempt's folder.
    container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    _add_writable(spec, container)
    return pod


def node_container(pod: Manifest) -> Manifest:
    found: Manifest = next(each for each in pod["spec"]["containers"] if each["name"] == CONTAINER)
    return found


def gpus_of(template: Manifest, gpu: str) -> int:
    """How many GPUs a pod asks for. Raises `WrongTemplate`."""
    resources = node_container(template).get("resources") or {}
    number = (resources.get("limits") or {}).get(gpu, 0)
    try:
        return int(number)
    except (TypeError, ValueError):
        raise WrongTemplate(f"must ask for a whole number of `{gpu}`, but asks for {number!r}") from None


def command(attempt: Attempt) -> list[str]:
    return ["python", "-m", ON_NODE, str(attempt.folder)]


def variables(attempt: Attempt) -> list[Manifest]:
    """What `on_node` reads to know its place among the pods."""
    return [
        {"name": NUM_NODES, "value": str(attempt.num_nodes)},
        {"name": NODE_RANK, "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        {"name": ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        # One pod may run long before the next, whose image is still fetched: the dispatcher says when that is too long.
        {"name": MEET, "value": "86400"},
    ]


def resources_of(template: Manifest, attempt: Attempt) -> Manifest:
    """The template's, with as many GPUs as the job has ranks on a node. Raises `WrongTemplate`."""
    resources = _with_words(node_container(template).get("resources") or {})
    if attempt.ranks_per_node is not None and gpus_of(template, attempt.gpu):
        for kind in ("limits", "requests"):
            if attempt.gpu in (resources.get(kind) or {}):
                resources[kind][attempt.gpu] = str(attempt.ranks_per_node)
    return resources


def job(template: Manifest, attempt: Attempt) -> Manifest:
    """An indexed `Job`: pod 0 is the first node. `service` gives it a name."""
    pod = pod_template(template)
    pod["metadata"]["labels"] |= {key: attempt.labels[key] for key in (LABEL_JOB, LABEL_ATTEMPT)}
    pod["spec"]["subdomain"] = attempt.name
    container = node_container(pod)
    container |= {"command": command(attempt), "resources": resources_of(template, attempt)}
    _set_variables(container, variables(attempt))
    spec = {
        **job_spec(pod),
        "completions": attempt.num_nodes,
        "parallelism": attempt.num_nodes,
        "ttlSecondsAfterFinished": attempt.keep_s,
        **({"activeDeadlineSeconds": attempt.timeout_s} if attempt.timeout_s else {}),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(attempt), "spec": spec}


def job_spec(pod: Manifest) -> Manifest:
    """One pod that fails ends the attempt, and Ladle starts the next one. A pod that was taken away does too, but says
    so: the job did nothing wrong."""
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return {
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": [disrupted]}]},
        "template": pod,
    }


def service(attempt: Attempt, owner: Manifest) -> Manifest:
    """Headless: it gives the pods of a `Job` names. It goes with the job."""
    metadata = _metadata(attempt)
    metadata["labels"].pop(LABEL_QUEUE, None)
    metadata["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "Job", "name": attempt.name, "uid": owner["metadata"]["uid"]}
    ]
    spec = {
        "clusterIP": "None",
        # Ranks look for each other before any of them is ready.
        "publishNotReadyAddresses": True,
        "selector": {LABEL_JOB_NAME: attempt.name},
        "ports": [{"name": "rendezvous", "port": PORT}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def training_runtime(template: Manifest, keep_s: int) -> Manifest:
    """What all `TrainJob`s of one pod template have in common, named after its content."""
    node = {
        "name": CONTAINER,
        "replicas": 1,
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": job_spec(pod_template(template)),
        },
    }
    spec = {
        "mlPolicy": {"numNodes": 1},
        "template": {
            "spec": {
                "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
                "ttlSecondsAfterFinished": keep_s,
                "replicatedJobs": [node],
            }
        },
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": f"ladle-{digest[:10]}", "labels": dict(COMMON_LABELS)},
        "spec": spec,
    }


def train_job(template: Manifest, attempt: Attempt) -> Manifest:
    """Only what differs between attempts. The rest is in the runtime that it names."""
    runtime = training_runtime(template, attempt.keep_s)["metadata"]["name"]
    trainer: Manifest = {
        "numNodes": attempt.num_nodes,
        "command": command(attempt),
        "env": variables(attempt),
    }
    resources = resources_of(template, attempt)
    if resources:
        trainer["resourcesPerNode"] = resources
    spec = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": runtime},
        "trainer": trainer,
        **({"activeDeadlineSeconds": attempt.timeout_s} if attempt.timeout_s else {}),
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(attempt),
        "spec": spec,
    }


def _with_words(resources: Manifest) -> Manifest:
    """Quantities as text: YAML reads `0.5` as a number, which Kubeflow Trainer does not take."""
    amounts = {kind: resources[kind] for kind in ("limits", "requests") if resources.get(kind)}
    return {**resources, **{kind: {name: str(each) for name, each in found.items()} for kind, found in amounts.items()}}


def _metadata(attempt: Attempt) -> Manifest:
    return {"name": attempt.name, "labels": dict(attempt.labels)}


def _tolerate_lost_nodes(spec: Manifest) -> None:
    tolerations = spec.setdefault("tolerations", [])
    known = {each.get("key") for each in tolerations}
    tolerations += [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_AFTER_S}
        for key in GONE_NODES
        if key not in known
    ]


def _add_writable(spec: Manifest, container: Manifest) -> None:
    mounts = container.setdefault("volumeMounts", [])
    mounted = {each.get("mountPath") for each in mounts}
    for path, volume in WRITABLE.items():
        if path not in mounted:
            name = "ladle-" + path.strip("/").replace("/", "-")
            spec.setdefault("volumes", []).append({"name": name, "emptyDir": dict(volume)})
            mounts.append({"name": name, "mountPath": path})


def _set_variables(container: Manifest, ours: list[Manifest]) -> None:
    names = {each["name"] for each in ours}
    kept = [each for each in container.get("env") or [] if each.get("name") not in names]
    container["env"] = [*kept, *ours]
