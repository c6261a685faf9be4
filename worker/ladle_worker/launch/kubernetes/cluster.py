"""The few calls to a cluster's API server that the launcher makes, through the official client. Objects are plain
dictionaries, as `kubectl get -o json` shows them."""

from __future__ import annotations

import json
from typing import Any

from ladle_worker.launch.kubernetes.manifests import Manifest
from ladle_worker.launch.kubernetes.settings import KubernetesSettings

TIMEOUT_S = (3.0, 10.0)
"""To connect, and to read an answer."""
PASSES = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same call may work a little later."""

JOBS = ("batch", "v1", "jobs")
TRAIN_JOBS = ("trainer.kubeflow.org", "v1alpha1", "trainjobs")
RUNTIMES = ("trainer.kubeflow.org", "v1alpha1", "trainingruntimes")
WORKLOADS = (("kueue.x-k8s.io", "v1beta2", "workloads"), ("kueue.x-k8s.io", "v1beta1", "workloads"))

Kind = tuple[str, str, str]


class ClusterAway(Exception):
    """The API server cannot be reached or is not able to answer at the moment."""


class Refused(Exception):
    """The API server does not do what it was asked. The message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Raises `ClusterAway` where there is no configuration to be found."""
        from kubernetes import client, config

        configuration = client.Configuration()
        configuration.retries = 0
        try:
            if settings.config is not None:
                config.load_kube_config(str(settings.config), client_configuration=configuration)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise ClusterAway(
                f"`LADLE_KUBERNETES_CONFIG` must name a kubeconfig file, or the dispatcher must run in a pod with a "
                f"service account: {error}"
            ) from error
        self.address = configuration.host
        self._namespace = settings.namespace
        self._api = client.ApiClient(configuration)
        self._objects = client.CustomObjectsApi(self._api)
        self._core = client.CoreV1Api(self._api)

    def knows(self, kind: Kind) -> bool:
        """Whether the cluster has objects of this kind."""
        group, version, plural = kind
        try:
            found = self._call(self._objects.get_api_resources, group, version, _preload_content=False)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return any(each.get("name") == plural for each in _json(found).get("resources", []))

    def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Answers the one that is there if it is there already."""
        group, version, plural = kind
        name = manifest["metadata"]["name"]
        try:
            made: Manifest = self._call(
                self._objects.create_namespaced_custom_object, group, version, self._namespace, plural, manifest
            )
        except Refused as error:
            if error.status != 409:
                raise
            found = self.get(kind, name)
            if found is None:
                raise ClusterAway(f"{plural} `{name}` is just being removed") from error
            return found
        return made

    def get(self, kind: Kind, name: str) -> Manifest | None:
        group, version, plural = kind
        try:
            found: Manifest = self._call(
                self._objects.get_namespaced_custom_object, group, version, self._namespace, plural, name
            )
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return found

    def find(self, kind: Kind, selector: str) -> list[Manifest]:
        group, version, plural = kind
        found = self._call(
            self._objects.list_namespaced_custom_object,
            group,
            version,
            self._namespace,
            plural,
            label_selector=selector,
        )
        return list(found.get("items") or [])

    def delete(self, kind: Kind, name: str) -> None:
        """With its pods. Does nothing if it is gone."""
        group, version, plural = kind
        try:
            self._call(
                self._objects.delete_namespaced_custom_object,
                group,
                version,
                self._namespace,
                plural,
                name,
                propagation_policy="Background",
            )
        except Refused as error:
            if error.status != 404:
                raise

    def create_service(self, manifest: Manifest) -> None:
        try:
            self._call(self._core.create_namespaced_service, self._namespace, manifest, _preload_content=False)
        except Refused as error:
            if error.status != 409:
                raise

    def pods(self, selector: str) -> list[Manifest]:
        answer = self._call(
            self._core.list_namespaced_pod, self._namespace, label_selector=selector, _preload_content=False
        )
        return list(_json(answer).get("items") or [])

    def events(self, name: str) -> list[Manifest]:
        """Of one object, the oldest first."""
        answer = self._call(
            self._core.list_namespaced_event,
            self._namespace,
            field_selector=f"involvedObject.name={name}",
            _preload_content=False,
        )
        return sorted(_json(answer).get("items") or [], key=_when)

    def close(self) -> None:
        self._api.rest_client.pool_manager.clear()

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(*arguments, **options, _request_timeout=TIMEOUT_S)
        except ApiException as error:
            words = _message(error)
            if error.status in PASSES or not error.status:
                raise ClusterAway(f"the API server at {self.address} answers {error.status}: {words}") from error
            raise Refused(error.status, words) from error
        except (HTTPError, OSError) as error:
            raise ClusterAway(f"the API server at {self.address} cannot be reached: {_fault(error)}") from error


def _json(answer: Any) -> Any:
    return json.loads(answer.data)


def _message(error: Any) -> str:
    """The server's own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _fault(error: Exception) -> str:
    """What went wrong, without the names of the client's own classes that stand before it."""
    words = str(getattr(error, "reason", None) or error)
    return words.partition("): ")[2] or words


def _when(event: Manifest) -> str:
    return str(
        event.get("lastTimestamp") or event.get("eventTime") or event.get("metadata", {}).get("creationTimestamp")
    )
