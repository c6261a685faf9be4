"""A stand-in for a Kubernetes cluster: an API server that checks objects by the published schemas, and controllers that
start the pods of a job as processes of this machine, on hosts of their own where there are any.

It knows what Ladle's launcher uses, and nothing more. It is not Kubernetes: docs/kubernetes.md says what that means.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import kubernetes_validate

from tests.cluster.hosts import Host
from tests.kubernetes.pods import Pod
from tests.unit.worker.kubernetes.examples import check

Json = dict[str, Any]
TOKEN = "a-token"
NAMESPACE = "ladle"
KINDS = {
    "batch/v1": ["jobs"],
    "trainer.kubeflow.org/v1alpha1": ["trainjobs", "trainingruntimes"],
    "kueue.x-k8s.io/v1beta2": ["workloads"],
    "v1": ["pods", "services", "events"],
}
POLL_S = 0.05
JOB, JOBSET = "batch.kubernetes.io/job-name", "jobset.sigs.k8s.io/jobset-name"


class Denied(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class StandIn:
    """One namespace of a cluster."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)
    has_trainer: bool = False
    room: int = 1000
    """How many pods may run at once."""
    images: set[str] = field(default_factory=lambda: {"ladle-worker"})
    """Those that can be pulled."""
    is_allowed: bool = True
    """Whether the dispatcher has its rights."""
    queue_is_open: bool = True
    """Whether Kueue admits jobs."""
    objects: dict[tuple[str, str], Json] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._ending = threading.Event()
        self._controller = threading.Thread(target=self._control, daemon=True)

    @property
    def config(self) -> Path:
        """A kubeconfig file."""
        path = self.folder / "kubeconfig"
        cluster = {"name": "it", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}
        user = {"name": "ladle", "user": {"token": TOKEN}}
        context = {"name": "it", "context": {"cluster": "it", "user": "ladle"}}
        made = {"apiVersion": "v1", "kind": "Config", "current-context": "it"}
        path.write_text(json.dumps({**made, "clusters": [cluster], "users": [user], "contexts": [context]}))
        return path

    def open(self) -> None:
        """The API server answers, at the same address as before."""
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """It is away, also for clients that are connected. Pods run on."""
        if (server := self._server) is not None:
            self._server = None
            server.shutdown()
            server.server_close()

    @property
    def is_away(self) -> bool:
        return self._server is None

    def jobs(self) -> list[str]:
        with self._lock:
            return [name for (kind, name), _ in self.objects.items() if kind in ("jobs", "trainjobs")]

    def running(self) -> list[Pod]:
        with self._lock:
            return [pod for pod in self.pods.values() if pod.phase == "Running"]

    def create(self, kind: str, manifest: Json) -> Json:
        name = manifest["metadata"]["name"]
        with self._lock:
            if (kind, name) in self.objects:
                raise Denied(409, f'{kind} "{name}" already exists')
            self._check(kind, manifest)
            manifest["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            manifest.setdefault("status", {})
            self.objects[kind, name] = manifest
        return manifest

    def delete(self, kind: str, name: str) -> Json:
        with self._lock:
            if (kind, name) not in self.objects:
                raise Denied(404, f'{kind} "{name}" not found')
            removed = self.objects.pop((kind, name))
            uid = removed["metadata"]["uid"]
            for other in [each for each, its in self.objects.items() if _is_owned(its, uid)]:
                self.delete(*other)
            for pod in self.pods.values():
                if pod.owner == uid:
                    pod.end()
        return removed

    def find(self, kind: str, labels: dict[str, str]) -> list[Json]:
        with self._lock:
            found = [pod.manifest() for pod in self.pods.values()] if kind == "pods" else []
            found += [manifest for (its, _), manifest in self.objects.items() if its == kind]
        return [each for each in found if labels.items() <= (each["metadata"].get("labels") or {}).items()]

    def end(self) -> None:
        self._ending.set()
        self._controller.join()
        self.close()
        for pod in self.pods.values():
            pod.kill()

    def begin(self) -> None:
        self.open()
        self._controller.start()

    def _check(self, kind: str, manifest: Json) -> None:
        try:
            check(manifest)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            raise Denied(422, f"{manifest['kind']} is invalid: {error.message}") from None
        if kind == "trainjobs" and ("trainingruntimes", manifest["spec"]["runtimeRef"]["name"]) not in self.objects:
            raise Denied(
                403, "admission webhook denied the request: trainingRuntime must be created before the TrainJob"
            )

    def _control(self) -> None:
        while not self._ending.wait(POLL_S):
            with self._lock:
                for (kind, _), manifest in list(self.objects.items()):
                    if kind == "trainjobs":
                        self._control_train_job(manifest)
                    if kind == "jobs":
                        self._control_job(manifest)
                for name, pod in list(self.pods.items()):
                    pod.look()
                    if pod.is_ending and pod.has_ended:
                        del self.pods[name]

    def _control_train_job(self, work: Json) -> None:
        """As Kubeflow Trainer and JobSet do together."""
        name = work["metadata"]["name"]
        made = self.objects.get(("jobs", f"{name}-node-0"))
        if made is None:
            self._make_job(work)
        else:
            work["status"]["conditions"] = [
                each for each in made["status"].get("conditions", []) if each["type"] in ("Complete", "Failed")
            ]

    def _make_job(self, work: Json) -> None:
        name, trainer = work["metadata"]["name"], work["spec"]["trainer"]
        runtime = self.objects["trainingruntimes", work["spec"]["runtimeRef"]["name"]]
        spec = json.loads(json.dumps(runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]))
        spec |= {"completions": trainer["numNodes"], "parallelism": trainer["numNodes"]}
        spec["template"]["metadata"]["labels"][JOBSET] = name
        container = next(each for each in spec["template"]["spec"]["containers"] if each["name"] == "node")
        container |= {"command": trainer["command"], "resources": trainer.get("resourcesPerNode", {})}
        container["env"] = [*container.get("env", []), *trainer["env"]]
        owner = {"apiVersion": work["apiVersion"], "kind": "TrainJob", "name": name, "uid": work["metadata"]["uid"]}
        labels = {JOBSET: name, **{key: value for key, value in work["metadata"]["labels"].items() if "kueue" in key}}
        metadata = {"name": f"{name}-node-0", "labels": labels, "ownerReferences": [owner]}
        self.create("jobs", {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})

    def _control_job(self, work: Json) -> None:
        spec, uid = work["spec"], work["metadata"]["uid"]
        if "kueue.x-k8s.io/queue-name" in work["metadata"].get("labels", {}):
            spec["suspend"] = not self.queue_is_open
            self._explain_queue(work)
        mine = [pod for pod in self.pods.values() if pod.owner == uid]
        if any(each["type"] in ("Complete", "Failed") for each in work["status"].get("conditions", [])):
            return
        if spec.get("suspend"):
            for pod in mine:
                pod.end()
            return
        for index in range(len(mine), spec["completions"]):
            self._make_pod(work, index)
        for pod in mine:
            if pod.phase == "Pending" and not pod.is_ending:
                self._try_to_start(pod)
        self._conclude(work, mine)

    def _conclude(self, work: Json, mine: list[Pod]) -> None:
        status = work["status"]
        if len(mine) == work["spec"]["completions"] and all(pod.phase == "Succeeded" for pod in mine):
            status["conditions"] = [condition("Complete")]
        failed = [pod for pod in mine if pod.phase == "Failed"]
        if failed:
            others = [pod for pod in mine if pod.phase in ("Pending", "Running")]
            for pod in others:
                pod.end()
            reason = "PodFailurePolicy" if any(pod.disruption for pod in failed) else "BackoffLimitExceeded"
            kind = "FailureTarget" if any(pod.phase == "Running" for pod in others) else "Failed"
            status["conditions"] = [condition(kind, reason)]

    def _make_pod(self, work: Json, index: int) -> None:
        template = json.loads(json.dumps(work["spec"]["template"]))
        name = f"{work['metadata']['name']}-{index}"
        labels = {JOB: work["metadata"]["name"], **(template["metadata"].get("labels") or {})}
        annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
        metadata = {"name": name, "labels": labels, "annotations": annotations, "uid": str(uuid.uuid4())}
        host = self.hosts[len(self.pods) % len(self.hosts)] if self.hosts else None
        self.pods[name] = Pod(metadata, template["spec"], work["metadata"]["uid"], self.folder / f"{name}.log", host)

    def _try_to_start(self, pod: Pod) -> None:
        pod.waiting, pod.unscheduled = None, ""
        image = pod.container["image"]
        if len(self.running()) >= self.room:
            pod.unscheduled = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        elif image not in self.images:
            pod.waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}": not found'}
        else:
            pod.start()

    def _explain_queue(self, work: Json) -> None:
        name, uid = f"job-{work['metadata']['name']}", work["metadata"]["uid"]
        owners = work["metadata"].get("ownerReferences") or [{"uid": uid}]
        status = "True" if self.queue_is_open else "False"
        words = condition("QuotaReserved", "Pending", "insufficient unused quota for nvidia.com/gpu", status)
        metadata = {
            "name": name,
            "labels": {"kueue.x-k8s.io/job-uid": owners[0]["uid"]},
            "ownerReferences": [{"uid": uid}],
        }
        metadata["uid"] = name
        self.objects["workloads", name] = {"metadata": metadata, "status": {"conditions": [words]}}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed says no farewell."""


class _Handler(BaseHTTPRequestHandler):
    cluster: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.cluster.is_away:
            self.close_connection = True
            return
        self.cluster.asked.append(f"{self.command} {self.path}")
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Denied(401, "Unauthorized")
            status, told = (201 if self.command == "POST" else 200), self._do(body)
        except Denied as error:
            status, told = error.status, {"kind": "Status", "message": str(error), "code": error.status}
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _do(self, body: Json | None) -> Json:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        kinds = KINDS.get(version, [])
        if version.startswith("trainer.") and not self.cluster.has_trainer:
            raise Denied(404, "the server could not find the requested resource")
        if not rest:
            return {"kind": "APIResourceList", "resources": [{"name": kind} for kind in kinds]}
        if not self.cluster.is_allowed:
            raise Denied(403, f'{rest[-1]} is forbidden: User "ladle" cannot do that')
        if rest[:2] != ["namespaces", NAMESPACE] or rest[2] not in kinds:
            raise Denied(404, "the server could not find the requested resource")
        return self._of(rest[2], rest[3:], parse_qs(url.query), body)

    def _of(self, kind: str, name: list[str], query: dict[str, list[str]], body: Json | None) -> Json:
        if self.command == "POST":
            assert body is not None
            return self.cluster.create(kind, body)
        if self.command == "DELETE":
            assert query.get("propagationPolicy") == ["Background"], "Kubernetes would leave the pods"
            return self.cluster.delete(kind, name[0])
        if name:
            found = self.cluster.objects.get((kind, name[0]))
            if found is None:
                raise Denied(404, f'{kind} "{name[0]}" not found')
            return found
        selector = query.get("labelSelector", [""])[0]
        labels = dict(part.split("=", 1) for part in selector.split(",") if part)
        return {"kind": "List", "items": self.cluster.find(kind, labels)}

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _is_owned(manifest: Json, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in manifest["metadata"].get("ownerReferences", []))


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def stand_in(folder: Path, **options: Any) -> Iterator[StandIn]:
    folder.mkdir(exist_ok=True)
    made = StandIn(folder, **options)
    made.begin()
    try:
        yield made
    finally:
        made.end()
