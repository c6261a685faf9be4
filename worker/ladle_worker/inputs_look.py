"""The agent's side of looking at a job's inputs: a process of its own, because a disk may hang."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ladle_contracts import JobSpec
from ladle_contracts.far_urls import is_url
from ladle_worker.asked_once import AskedOnce
from ladle_worker.inputs_difference import FAR, inputs_of
from ladle_worker.inputs_seen import MOST_TOLD
from ladle_worker.job_folder import AttemptFolder

MODULE = "ladle_worker.inputs_seen"


class LookAtInputs(AskedOnce):
    """The process that looks."""

    def __init__(self, folder: AttemptFolder, job: Mapping[str, Any], spec: JobSpec) -> None:
        self._far = job.get("far", {}).get("record")
        asked = {"roots": job["roots"], "inputs": _near_inputs(job, spec)}
        temporary = str(folder.temporary)
        super().__init__(MODULE, asked, name="seen", folder=folder.path, log=folder.log, TMPDIR=temporary)

    def answer(self) -> dict[str, Any]:
        """Empty if the process failed, which the log says. Then the ranks alone compare."""
        try:
            told: dict[str, Any] = json.loads(self._out.read_text())
        except ValueError:
            told = {}
        if self._far is not None:
            told[FAR] = far_seen(self._far)
        return told


def _near_inputs(job: Mapping[str, Any], spec: JobSpec) -> list[dict[str, Any]]:
    """Where those are that are no addresses, as the agent has resolved them."""
    given = [job["ckpt_dir"], job["val_set"], job["train_set"], job["base_model"], job["base"]]
    paths = [path for each in given if each is not None for path in _several(each)]
    return [
        {"field": field, "path": path, "weights": weights}
        for (field, asked, weights), path in zip(inputs_of(spec), paths, strict=True)
        if not is_url(asked)
    ]


def _several(paths: Any) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else list(paths.values()) if isinstance(paths, dict) else paths


def far_seen(versions: Mapping[str, str]) -> dict[str, Any]:
    """Addresses with the version that a store gives of each."""
    told = json.dumps(versions, sort_keys=True)
    parts = {url: [1, 0, versions[url]] for url in sorted(versions)[:MOST_TOLD]}
    return {"files": len(versions), "digest": hashlib.sha256(told.encode()).hexdigest(), "parts": parts}
