"""A process that is asked one thing, answers on its stdout and ends: what may hang must not keep the agent."""

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

from ladle_contracts.processes import end_with_parent
from ladle_worker.launch.environment import rank_environment
from ladle_worker.tree import Meanwhile, nothing

WAIT_S = 5.0


class AskedOnce:
    """A child of this process that never outlives it, with the environment of ranks."""

    def __init__(
        self, module: str, asked: Mapping[str, Any], *, name: str, folder: Path, log: Path, **variables: str
    ) -> None:
        """`name` is that of the files for question and answer in the folder."""
        self._out = folder / f"{name}.json"
        question = folder / f"{name}-asked.json"
        question.write_text(json.dumps(asked) + "\n")
        with question.open("rb") as stdin, self._out.open("wb") as stdout, log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env=rank_environment(1) | variables,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )

    def poll(self) -> int | None:
        """The exit status; None while it works."""
        return self._process.poll()

    def end(self, meanwhile: Meanwhile = nothing) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        meanwhile()
        # It may hang on a disk or a GPU.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
