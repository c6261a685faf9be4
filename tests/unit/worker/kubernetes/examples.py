"""Templates, attempts and checks that the tests of Kubernetes share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from ladle_worker.launch.kubernetes.manifests import Attempt, read_template

OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
SCHEMAS = Path(__file__).parent / "schemas"
GPU = "nvidia.com/gpu"

TEMPLATE = read_template(
    """
metadata:
  annotations: {example.com/team: vision}
spec:
  nodeSelector: {example.com/gpu: h100}
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  imagePullSecrets: [{name: registry}]
  containers:
    - name: node
      image: registry.example.com/ladle-worker:1
      resources: {limits: {nvidia.com/gpu: 8, memory: 64Gi}, requests: {cpu: 0.5}}
      env: [{name: NCCL_DEBUG, value: WARN}, {name: KEY, valueFrom: {secretKeyRef: {name: store, key: key}}}]
      volumeMounts:
        - {name: data, mountPath: /data, readOnly: true}
        - {name: results, mountPath: /results}
  volumes:
    - {name: data, persistentVolumeClaim: {claimName: ladle-data, readOnly: true}}
    - {name: results, persistentVolumeClaim: {claimName: ladle-results}}
"""
)


def attempt(**changes: Any) -> Attempt:
    return replace(
        Attempt(
            job_id="0b8f7d1e-4c57-4f0b-9d53-0e3a5b7f4c11",
            number=2,
            folder=Path("/results/.ladle/0b8f7d1e/attempt-2"),
            num_nodes=2,
            ranks_per_node=None,
            timeout_s=None,
            queue=None,
            gpu=GPU,
            keep_s=86400,
        ),
        **changes,
    )


def check(manifest: dict[str, Any]) -> None:
    """Raises if an API server would not take it: by Kubernetes' own schemas, or by those of Kubeflow Trainer."""
    if manifest["apiVersion"].startswith("trainer.kubeflow.org/"):
        schema = _strict(json.loads((SCHEMAS / f"{manifest['kind'].lower()}.json").read_text()))
        # An API server checks `metadata` by rules of its own.
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.Draft202012Validator(schema).validate(manifest)
        return
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(manifest, version, strict=True)


def _strict(schema: Any) -> Any:
    """No fields but those that are known, as `kubectl --validate=strict`."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(each) for key, each in schema.items()}
    if "properties" in made and made.get("type") == "object" and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made
