"""What the operator configures with environment variables that begin with `LADLE_KUBERNETES_`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

KUBERNETES_PREFIX = "LADLE_KUBERNETES_"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """That of the pod that this process is in."""
    try:
        return OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"


class KubernetesSettings(BaseSettings):
    """How a dispatcher uses its cluster."""

    model_config = SettingsConfigDict(env_prefix=KUBERNETES_PREFIX, frozen=True, env_ignore_empty=True)

    pod: Path
    """A YAML file with a pod template: image, resources, volumes, node selector, tolerations. Its container `node` runs
    the ranks."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = Field(
        default_factory=own_namespace
    )
    """Where jobs are made. By default the dispatcher's own namespace, or `default` outside a cluster."""
    kind: Literal["auto", "trainjob", "job"] = "auto"
    """What an attempt becomes: a `TrainJob` of Kubeflow Trainer, or an indexed `Job`. `auto`: a `TrainJob` where the
    cluster knows them."""
    queue: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")] | None = None
    """The `LocalQueue` of Kueue that jobs wait in. By default none."""
    gpu: str = "nvidia.com/gpu"
    """The resource of which one rank needs one."""
    config: Path | None = None
    """A kubeconfig file. By default the service account of the dispatcher's pod."""
    poll_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How often the cluster is asked about each job."""
    patience_s: Annotated[float, Field(ge=0)] = 300.0
    """How long pods may lack an image or a secret, or one of a job's pods may wait while others run, before the attempt
    ends."""
    keep_s: Annotated[int, Field(ge=60)] = 86400
    """When Kubernetes itself removes a job that has ended and that the dispatcher did not remove."""
