"""The launcher that runs the ranks of an attempt as pods, each of which is one machine: `on_node`.

A thread of its own talks to the cluster, so that an API server that is slow or away never keeps the agent from its
lease. It first ends what is left of earlier attempts, then makes the attempt's objects, and then looks at them until
the attempt is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ladle_worker.launch.kubernetes.cluster import (
    JOBS,
    RUNTIMES,
    TRAIN_JOBS,
    Cluster,
    ClusterAway,
    Kind,
    Refused,
)
from ladle_worker.launch.kubernetes.manifests import (
    LABEL_JOB,
    LABEL_JOBSET_NAME,
    Attempt,
    WrongTemplate,
    gpus_of,
    job,
    read_template,
    service,
    train_job,
    training_runtime,
)
from ladle_worker.launch.kubernetes.settings import KubernetesSettings
from ladle_worker.launch.kubernetes.states import SETTLE_S, Seen, all_run, last_words, obstacle, status_of
from ladle_worker.launch.kubernetes.works import end_all, kind_of, pods_of, workloads_of, works_with
from ladle_worker.launch.launcher import CannotLaunch, Ending, Launch, Status
from ladle_worker.relay import log_tail
from ladle_worker.tree import Meanwhile, nothing

logger = logging.getLogger(__name__)

CANCEL_S = 30.0
"""How long a cancel waits until pods have ended. What it cannot end ends by itself, and is removed by its labels."""
STEP_S = 0.2
LATER_S = 60
"""How much later than the agent Kubernetes ends a job that has run for too long."""
NOT_ALLOWED = (401, 403, 404)
"""What an operator mends while jobs wait: rights, quotas, a namespace that is not there."""
DENIED = "denied the request"
"""The words of an admission webhook that does not accept the object, and never will."""


class Kubernetes:
    """The pods of one attempt."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._status = Status(waits_for="is being handed over to Kubernetes")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._cluster: Cluster | None = None
        self._kind: Kind | None = None
        self._earlier: dict[Kind, list[str]] | None = None
        self._asked, self._refused_since = False, 0.0
        self._had_run = False
        self._pods: Sequence[Mapping[str, Any]] = ()
        self._obstacle, self._obstacle_since = "", 0.0

    def start(self, launch: Launch) -> None:
        """Raises `CannotLaunch` where the pod template or the job cannot be used."""
        self._launch = launch
        try:
            self._template = read_template(self._settings.pod.read_text())
            self._check_ranks(gpus_of(self._template, self._settings.gpu))
        except OSError as error:
            raise CannotLaunch(self._refusal(f"cannot be read: {error}")) from error
        except WrongTemplate as error:
            raise CannotLaunch(self._refusal(str(error))) from error
        self._attempt = self._make_attempt(launch)
        self._thread = threading.Thread(target=self._run, name=f"ladle-pods-{launch.job_id}", daemon=True)
        self._thread.start()

    def status(self) -> Status:
        return self._status

    def logs(self) -> Sequence[str]:
        """Ranks in pods cannot be asked where they are."""
        return log_tail(self._launch.folder) or last_words(self._pods)

    def cancel(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        """Kubernetes gives pods the grace of the pod template."""
        self._stop_thread(meanwhile)
        if self._status.is_over and self._status.code is not None:
            return
        deadline = time.monotonic() + CANCEL_S
        while self._cluster is not None and self._kind is not None and time.monotonic() < deadline:
            try:
                if end_all(self._cluster, {self._kind: [self._attempt.name]}):
                    return
            except ClusterAway as error:
                logger.warning("the pods of job %s cannot be ended yet: %s", self._launch.job_id, error)
            except Refused as error:
                logger.error("the pods of job %s cannot be ended: %s", self._launch.job_id, error)
                return
            meanwhile()
            time.sleep(STEP_S)
        if self._kind is not None:
            logger.error("pods of job %s may still run: they end when they see that it is over", self._launch.job_id)

    def forget(self) -> None:
        """Removes the attempt's objects. What cannot be removed now is found by its labels."""
        self._stop_thread()
        if self._cluster is None or self._kind is None:
            return
        try:
            self._cluster.delete(self._kind, self._attempt.name)
        except (ClusterAway, Refused) as error:
            logger.warning("the objects of job %s stay in the cluster for now: %s", self._launch.job_id, error)
        self._cluster.close()

    def _check_ranks(self, gpus: int) -> None:
        ranks = self._launch.ranks_per_node
        if gpus and ranks and ranks > gpus:
            message = (
                f"`resources.ranks_per_node` must be at most {gpus}, the GPUs of a pod of this cluster, but is {ranks}."
            )
            raise CannotLaunch(Ending.refused(message))

    def _refusal(self, words: str) -> Ending:
        return Ending.refused(f"The pod template `{self._settings.pod}` (`LADLE_KUBERNETES_POD`) {words}.")

    def _make_attempt(self, launch: Launch) -> Attempt:
        return Attempt(
            job_id=launch.job_id,
            number=launch.attempt,
            folder=launch.folder.path,
            num_nodes=launch.num_nodes,
            ranks_per_node=launch.ranks_per_node,
            # The agent keeps to the job's limit, and says more.
            timeout_s=int(launch.timeout_s) + LATER_S if launch.timeout_s else None,
            queue=self._settings.queue,
            gpu=self._settings.gpu,
            keep_s=self._settings.keep_s,
        )

    def _run(self) -> None:
        while not self._status.is_over:
            try:
                self._status = self._step()
            except ClusterAway as error:
                # Pods that run do so without the API server.
                if not self._had_run:
                    self._status = Status(waits_for=f"needs Kubernetes, which does not answer: {error}")
            except Refused as error:
                self._status = self._refused(error)
            except Exception as error:
                logger.exception("the pods of job %s cannot be watched", self._launch.job_id)
                self._status = Status(is_over=True, ending=Ending.of_mistake(error))
            else:
                self._refused_since = 0.0
            if self._stopping.wait(STEP_S if self._earlier is None else self._settings.poll_s):
                return

    def _refused(self, error: Refused) -> Status:
        if self._had_run:
            # To tell its state. The pods go on.
            logger.warning("Kubernetes does not tell how job %s is: %s", self._launch.job_id, error)
            return self._status
        self._refused_since = self._refused_since or time.monotonic()
        return _refused(error, time.monotonic() - self._refused_since >= self._settings.patience_s)

    def _step(self) -> Status:
        cluster = self._connect()
        if self._earlier is None:
            self._earlier = self._find_earlier(cluster)
            self._since = time.monotonic()
        if not self._asked:
            if not end_all(cluster, self._earlier) and time.monotonic() - self._since < SETTLE_S:
                return Status(waits_for="waits until the pods of its earlier attempt have ended")
            self._ask(cluster)
            self._asked = True
        return self._look(cluster)

    def _connect(self) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster(self._settings)
        if self._kind is None:
            self._kind = kind_of(self._cluster, self._settings)
        return self._cluster

    def _find_earlier(self, cluster: Cluster) -> dict[Kind, list[str]]:
        return {
            kind: [name for each in found if (name := each["metadata"]["name"]) != self._attempt.name]
            for kind, found in works_with(cluster, f"{LABEL_JOB}={self._attempt.job_id}").items()
        }

    def _ask(self, cluster: Cluster) -> None:
        """Makes the attempt's objects. It may be called again after an error."""
        if self._kind == TRAIN_JOBS:
            cluster.create(RUNTIMES, training_runtime(self._template, self._settings.keep_s))
            cluster.create(TRAIN_JOBS, train_job(self._template, self._attempt))
        else:
            made = cluster.create(JOBS, job(self._template, self._attempt))
            cluster.create_service(service(self._attempt, made))

    def _look(self, cluster: Cluster) -> Status:
        assert self._kind is not None, "it is connected"
        name = self._attempt.name
        work = cluster.get(self._kind, name)
        seen = Seen(
            work=work,
            num_nodes=self._attempt.num_nodes,
            jobs=cluster.find(JOBS, f"{LABEL_JOBSET_NAME}={name}") if self._kind == TRAIN_JOBS else (),
            pods=cluster.pods(pods_of(self._kind, name)),
            had_run=self._had_run,
            patience_s=self._settings.patience_s,
        )
        self._pods = seen.pods
        status = status_of(seen)
        if status.waits_for:
            status = status_of(self._with_reasons(cluster, seen))
        self._had_run = self._had_run or all_run(seen)
        return status

    def _with_reasons(self, cluster: Cluster, seen: Seen) -> Seen:
        """Also what explains why pods do not run, and how long that has been so."""
        if (kind := obstacle(seen)) != self._obstacle:
            self._obstacle, self._obstacle_since = kind, time.monotonic()
        names = [self._attempt.name, *(each["metadata"]["name"] for each in (*seen.jobs, *seen.pods))]
        return replace(
            seen,
            events=[event for name in names for event in cluster.events(name)],
            workloads=workloads_of(cluster, seen.work) if self._settings.queue else (),
            waited_s=time.monotonic() - self._obstacle_since if kind else 0.0,
        )

    def _stop_thread(self, meanwhile: Meanwhile = nothing) -> None:
        self._stopping.set()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(STEP_S)
            meanwhile()


def _refused(error: Refused, lost_patience: bool) -> Status:
    if error.status in NOT_ALLOWED and DENIED not in str(error):
        return Status(waits_for=f"is not allowed by Kubernetes for now: {error}")
    # Kubeflow Trainer denies a `TrainJob` until it has seen its new runtime.
    if not lost_patience:
        return Status(waits_for=f"is refused by Kubernetes for now: {error}")
    return Status(is_over=True, ending=Ending.refused(f"Kubernetes refuses the job: {error}."))
