"""The agent's side of results that are uploaded: the process that has the credentials, and what it is asked."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ladle_worker.far_helper import helper_environment
from ladle_worker.settings import Settings

WAIT_S = 5.0
WITHDRAW_S = 300.0
POLL_S = 0.1


class ResultsHelper:
    """A child of this process that never outlives it. It does one thing at a time."""

    def __init__(self, request: Mapping[str, Any], folder: Path, log: IO[bytes]) -> None:
        path = folder / "far-results.json"
        path.write_text(json.dumps(request))
        self._line = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ladle_worker.far_results", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env=helper_environment(),
            # It ends with this process by itself: a child of several threads is started without code of ours.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def ask(self, do: str, **arguments: Any) -> None:
        self._line = b""
        self._say({"do": do, **arguments})

    def may_write_until(self, until: float) -> None:
        """By `clock.now`."""
        self._say({"until": until})

    def poll(self) -> int | None:
        """None while there is no answer yet."""
        assert self._process.stdout is not None
        while not self._line.endswith(b"\n") and select.select([self._process.stdout], [], [], 0)[0]:
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                return self._process.wait()
            self._line += part
        return 0 if self._line.endswith(b"\n") else None

    def answer(self) -> dict[str, Any] | None:
        """None if the process ended without a word."""
        answer: dict[str, Any] | None = json.loads(self._line) if self._line.endswith(b"\n") else None
        return answer

    def _say(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()


def withdraw_far(settings: Settings, url: str, job_id: str) -> None:
    """Removes a job's result from its store, or half of one. Raises OSError: then it can be called again."""
    with (
        tempfile.TemporaryDirectory(prefix="ladle-withdraw-") as folder,
        (Path(folder) / "log").open("w+b") as log,
        ResultsHelper({"url": url, "job_id": job_id}, Path(folder), log) as helper,
    ):
        helper.ask("withdraw")
        deadline = time.monotonic() + WITHDRAW_S
        while helper.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        answer = helper.answer()
        if answer is None or not answer["ok"]:
            log.seek(0)
            why = log.read()[-500:].decode(errors="replace") if answer is None else answer["message"]
            raise OSError(f"`{url}` cannot be removed: {why}")
