"""The agent's side of far files: the process that fetches them, from before the ranks start until they have ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ladle_contracts.far_urls import is_url
from ladle_contracts.processes import end_with_parent
from ladle_worker.job_folder import AttemptFolder, write_whole
from ladle_worker.tree import Meanwhile, nothing

INPUTS = ("ckpt_dir", "val_set", "train_set", "base_model", "base", "curve_earlier")
"""What of a job may be far."""
FAR_MODULE = "ladle_worker.far"
NOT_FOR_IT = "LADLE_REDIS"
WAIT_S = 5.0


class FarHelper:
    """A child of this process that never outlives it. It has this process' environment, where the credentials are."""

    def __init__(self, folder: AttemptFolder, request: Mapping[str, Any]) -> None:
        write_whole(folder.far_request, request)
        for path in (folder.far, folder.far_checked):
            path.unlink(missing_ok=True)
        self._awaited = folder.far
        self._checked = folder.far_checked
        self._log = folder.log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", FAR_MODULE, str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=folder.path,
            env=helper_environment(),
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGKILL),
        )

    def poll(self) -> int | None:
        """None while there is no answer yet."""
        return 0 if self._awaited.exists() else self._process.poll()

    def answer(self) -> dict[str, Any] | None:
        """What was fetched, or why nothing was. None if the process ended without a word."""
        try:
            answer: dict[str, Any] = json.loads(self._awaited.read_text())
        except FileNotFoundError:
            return None
        return answer

    def ask_whether_changed(self) -> None:
        """The next answer is whether the far files are still what they were."""
        self._awaited = self._checked
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"check\n")
            self._process.stdin.flush()

    def end(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        """Ends it, and the process that looks for it, which dies with it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._log.close()


def is_far(job: Mapping[str, Any]) -> bool:
    """Whether any of its inputs is an address."""
    return any(has_url(job[name]) for name in INPUTS)


def with_far(job: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The job with local paths, which its ranks may read."""
    far = {name: found[name] for name in ("mirror", "here", "parts", "record")}
    return {**job, **{name: found[name] for name in INPUTS}, "roots": [*job["roots"], found["mirror"]], "far": far}


def helper_environment() -> dict[str, str]:
    """With the operator's credentials for stores, and without those for Redis."""
    return {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_IT)}


def has_url(value: Any) -> bool:
    """Whether it is an address, or one of several is."""
    several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return any(map(is_url, several))


def far_request(job: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """The job, and what the operator says of far files."""
    return {
        **job,
        "far_roots": list(settings.far_roots),
        "cache": str(Path(settings.far_cache).absolute()),
        "cache_bytes": settings.far_cache_bytes,
        "private": list(settings.far_private),
    }
