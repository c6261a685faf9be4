"""The jobs that Ladle has in a cluster, of this and of earlier dispatchers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ladle_worker.launch.kubernetes.cluster import JOBS, TRAIN_JOBS, WORKLOADS, Cluster, ClusterAway, Kind, Refused
from ladle_worker.launch.kubernetes.manifests import (
    COMMON_LABELS,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_JOB_NAME,
    LABEL_JOBSET_NAME,
    Manifest,
)
from ladle_worker.launch.kubernetes.settings import KubernetesSettings
from ladle_worker.launch.orphans import is_orphan

logger = logging.getLogger(__name__)

COMMON_SELECTOR = ",".join(f"{key}={value}" for key, value in COMMON_LABELS.items())
LIVE = ("Pending", "Running", "Unknown")


def kind_of(cluster: Cluster, settings: KubernetesSettings) -> Kind:
    """What an attempt becomes in this cluster."""
    if settings.kind == "auto":
        return TRAIN_JOBS if cluster.knows(TRAIN_JOBS) else JOBS
    return TRAIN_JOBS if settings.kind == "trainjob" else JOBS


def works_with(cluster: Cluster, selector: str) -> dict[Kind, list[Manifest]]:
    """Those of both kinds that carry these labels. The setting may have changed since they were made."""
    kinds = [JOBS, TRAIN_JOBS] if cluster.knows(TRAIN_JOBS) else [JOBS]
    return {kind: cluster.find(kind, selector) for kind in kinds}


def pods_of(kind: Kind, name: str) -> str:
    """The selector of a job's pods."""
    return f"{LABEL_JOBSET_NAME if kind == TRAIN_JOBS else LABEL_JOB_NAME}={name}"


def workloads_of(cluster: Cluster, work: Mapping[str, Any] | None) -> list[Manifest]:
    """Kueue's objects of a job. Nothing where Ladle may not read them: they only explain."""
    uid = (work or {}).get("metadata", {}).get("uid", "")
    for kind in WORKLOADS:
        try:
            return cluster.find(kind, f"kueue.x-k8s.io/job-uid={uid}")
        except Refused:
            continue
    return []


def end_all(cluster: Cluster, works: Mapping[Kind, Sequence[str]]) -> bool:
    """Deletes them. True if none of their pods runs any more."""
    named = [(kind, name) for kind, names in works.items() for name in names]
    for kind, name in named:
        cluster.delete(kind, name)
    return not any(
        pod.get("status", {}).get("phase") in LIVE for kind, name in named for pod in cluster.pods(pods_of(kind, name))
    )


def end_orphans(settings: KubernetesSettings, redis: Any) -> None:
    """Of all dispatchers of this Ladle. Raises `RedisError`."""
    try:
        cluster = Cluster(settings)
        for kind, found in works_with(cluster, COMMON_SELECTOR).items():
            for work in found:
                name, labels = work["metadata"]["name"], work["metadata"]["labels"]
                if is_orphan(redis, labels[LABEL_JOB], int(labels[LABEL_ATTEMPT])):
                    logger.warning("`%s` of an attempt that is over is removed from the cluster", name)
                    cluster.delete(kind, name)
        cluster.close()
    except (ClusterAway, Refused) as error:
        logger.warning("the cluster cannot be searched for what is left of earlier jobs: %s", error)
