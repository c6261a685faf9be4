"""Ladle over the stand-in: Redis, the scheduler and a dispatcher with `LADLE_LAUNCHER=kubernetes`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ladle_contracts import JobRecord, JobSpec
from tests.integration.gang_jobs import gang_spec, wait_at
from tests.integration.life import Cluster, Gate, alpha_of, cluster
from tests.kubernetes.pods import ROOT, Pod
from tests.kubernetes.stand_in import NAMESPACE, StandIn, stand_in
from tests.polling import until
from tests.servers import Process, RedisServer, gated_worker, redis_server, running

POD = """
spec:
  containers:
    - name: node
      image: {image}
      resources: {{limits: {{memory: 4Gi}}}}
      volumeMounts: [{{name: results, mountPath: /results}}]
  volumes:
    - {{name: results, persistentVolumeClaim: {{claimName: ladle-results}}}}
"""


@dataclass
class Stack:
    folder: Path
    data: Path
    kubernetes: StandIn
    server: RedisServer
    made: Cluster
    gate: Gate
    dispatcher: Process

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def spec(self, nodes: int = 1, ranks: int | None = 1, **resources: Any) -> JobSpec:
        spec = gang_spec(self.data, nodes)
        asked = spec.resources.model_copy(update={"ranks_per_node": ranks, **resources})
        return spec.model_copy(update={"resources": asked})

    def submit_and_hold(self, spec: JobSpec, point: str = "train-17") -> str:
        """A job whose ranks stand at this point."""
        self.gate.hold(point)
        job = self.made.submit(spec)
        wait_at(point, self.gate, self.made, job)
        return job

    def wait_for_reason(self, job: str, words: str) -> JobRecord:
        return until(
            lambda: words in ((record := self.made.record(job)).waiting_for or "") and record,
            what=f"{words!r}: {self.made.record(job)}",
        )

    def pod(self) -> Pod:
        """The only one that runs."""
        (found,) = self.kubernetes.running()
        return found

    def is_clean(self) -> bool:
        """Nothing is left in the cluster or in the folder of results."""
        left = [*self.kubernetes.jobs(), *self.kubernetes.pods, *(self.results / ".ladle").iterdir()]
        return not left and not [kind for kind, _ in self.kubernetes.objects if kind == "services"]

    def alpha(self) -> Any:
        return alpha_of(self.results, "out", "twa")

    def used_rights(self) -> set[tuple[str, str]]:
        """What the dispatcher has asked for: the kind of object, and the verb as a role names it."""
        used = set()
        for method, path in (each.split() for each in self.kubernetes.asked):
            _, found, rest = urlsplit(path).path.partition(f"/namespaces/{NAMESPACE}/")
            kind, named, _ = rest.partition("/")
            verb = {"POST": "create", "DELETE": "delete", "GET": "get" if named else "list"}[method]
            if found:
                used.add((kind, verb))
        return used

    def allowed_rights(self) -> set[tuple[str, str]]:
        """Those of `docker/kubernetes`."""
        manifests = yaml.safe_load_all((ROOT / "docker/kubernetes/dispatcher.yaml").read_text())
        role = next(each for each in manifests if each["kind"] == "Role")
        return {(kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}


@contextmanager
def kubernetes_stack(folder: Path, data: Path, **options: Any) -> Iterator[Stack]:
    """`settings` of the dispatcher, and what else is said is for the stand-in."""
    settings = options.pop("settings", {})
    with ExitStack() as exits:
        server = exits.enter_context(redis_server(folder))
        made = exits.enter_context(cluster(server))
        kubernetes = exits.enter_context(stand_in(folder / "kubernetes", **options))
        gate = Gate(folder / "results/gates")
        pod = folder / "pod.yaml"
        pod.write_text(POD.format(image="ladle-worker"))
        known = {
            "LAUNCHER": "kubernetes",
            "HOLDS": "2",
            "NODE_ID": "dispatcher",
            "SWEEP_S": "1",
            "KUBERNETES_POD": str(pod),
            "KUBERNETES_CONFIG": str(kubernetes.config),
            "KUBERNETES_NAMESPACE": NAMESPACE,
            "KUBERNETES_POLL_S": "0.3",
        }
        dispatcher = gated_worker(folder, server, data, **{**known, **settings})
        exits.enter_context(running(dispatcher))
        until(lambda: made.call(made.store.nodes()), what="the dispatcher to register")
        yield Stack(folder, data, kubernetes, server, made, gate, dispatcher)
