"""The agent's side of looking at a job's inputs: a process of its own, because a disk may hang."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ladle_contracts import JobSpec
from ladle_contracts.far_urls import is_url
from ladle_contracts.processes import end_with_parent
from ladle_worker.inputs_difference import FAR, inputs_of
from ladle_worker.inputs_seen import MOST_TOLD
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.environment import rank_environment
from ladle_worker.tree import Meanwhile, nothing

MODULE = "ladle_worker.inputs_seen"
WAIT_S = 5.0


class LookAtInputs:
    """The process that looks. A child of this process that never outlives it."""

    def __init__(self, folder: AttemptFolder, job: Mapping[str, Any], spec: JobSpec) -> None:
        self._out = folder.path / "seen.json"
        self._far = job.get("far", {}).get("record")
        question = folder.path / "look.json"
        question.write_text(json.dumps({"roots": job["roots"], "inputs": _near_inputs(job, spec)}) + "\n")
        with question.open("rb") as stdin, self._out.open("wb") as stdout, folder.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=stdin,
                stdout=stdout,
                stderr=log,
                cwd=folder.path,
                env=rank_environment(1) | {"TMPDIR": str(folder.temporary)},
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def answer(self) -> dict[str, Any]:
        """Empty if the process failed, which the log says. Then the ranks alone compare."""
        try:
            told: dict[str, Any] = json.loads(self._out.read_text())
        except ValueError:
            told = {}
        if self._far is not None:
            told[FAR] = far_seen(self._far)
        return told

    def end(self, meanwhile: Meanwhile = nothing) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        meanwhile()
        # It may hang on a disk.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)


def _near_inputs(job: Mapping[str, Any], spec: JobSpec) -> list[dict[str, Any]]:
    """Where those are that are no addresses, as the agent has resolved them."""
    given = [job["ckpt_dir"], job["val_set"], job["train_set"], job["base_model"]]
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
