"""Settings for Kubernetes that are wrong are explained when the dispatcher starts."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from pydantic import ValidationError

from ladle_contracts.environment import explain_settings
from ladle_worker.launch.kubernetes.cluster import Cluster, ClusterAway, Refused
from ladle_worker.launch.kubernetes.manifests import WrongTemplate, gpus_of, read_template
from ladle_worker.launch.kubernetes.settings import KubernetesSettings
from ladle_worker.launch.kubernetes.works import COMMON_SELECTOR, kind_of, works_with
from ladle_worker.launch.launcher import WrongLauncher

logger = logging.getLogger(__name__)


def check_kubernetes() -> None:
    """Raises `WrongLauncher`. A cluster that is away, or does not allow something yet, is only warned of."""
    if find_spec("kubernetes") is None:
        raise WrongLauncher(
            "`LADLE_LAUNCHER=kubernetes` needs the client of Kubernetes: install it with `pip install "
            "'ladle[kubernetes]'`."
        )
    try:
        settings = KubernetesSettings()
        gpus_of(read_template(settings.pod.read_text()), settings.gpu)
    except ValidationError as error:
        told = [line.replace("`LADLE_", "`LADLE_KUBERNETES_", 1) for line in explain_settings(error)]
        raise WrongLauncher("\n".join(told)) from error
    except WrongTemplate as error:
        raise WrongLauncher(f"The pod template `{settings.pod}` (`LADLE_KUBERNETES_POD`) {error}.") from error
    except OSError as error:
        raise WrongLauncher(f"`LADLE_KUBERNETES_POD` must be a file that can be read, but: {error}.") from error
    _look(settings)


def _look(settings: KubernetesSettings) -> None:
    try:
        cluster = Cluster(settings)
        kind = kind_of(cluster, settings)
        works_with(cluster, COMMON_SELECTOR)
    except ClusterAway as error:
        logger.warning("Kubernetes does not answer yet, and jobs wait until it does: %s", error)
    except Refused as error:
        logger.warning("Kubernetes does not allow what the dispatcher needs, and jobs wait until it does: %s", error)
    else:
        logger.info("jobs become %s in the namespace %s of %s", kind[2], settings.namespace, cluster.address)
        cluster.close()
