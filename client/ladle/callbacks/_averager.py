"""Averages checkpoints while a training goes on: one job at a time, in a thread of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle._client import Client
from ladle._spec import ValSet, build_spec
from ladle.callbacks._averaging import client_for, is_service_known, roots_of, with_steps
from ladle_contracts import JobResult

Steps = tuple[int, ...]
END_S = 30.0
"""How long the end of a training waits for a stack to end, which it does by itself."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one wish: a result, or an error."""

    steps: Steps
    job_id: str = ""
    result: JobResult | None = None
    error: Exception | None = None


class Averager:
    """All methods return at once but `wait`. Any thread may call them.

    While a job runs, the newest wish waits and takes the place of one that waits already: a curve has fewer points
    where averaging is slower than training.
    """

    def __init__(self, folder: Path, val_set: ValSet, options: Mapping[str, Any], results: Path) -> None:
        self._folder, self._val_set, self._options, self._results = folder, val_set, options, results
        self._changed = threading.Condition()
        self._wanted: Steps | None = None
        self._current: Steps | None = None
        self._finished: list[Outcome] = []
        self._last: Outcome | None = None
        self._newest: str | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, steps: Sequence[int]) -> None:
        """Wishes for an average of these checkpoints; not again for those that are being averaged, or were last."""
        with self._changed:
            if self._closed:
                return
            same = self._last is not None and self._last.error is None and self._last.steps == tuple(steps)
            if tuple(steps) == self._current or (same and self._current is None):
                self._wanted = None
                return
            self._wanted = tuple(steps)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ladle averages", daemon=True)
                self._thread.start()

    def in_use(self) -> set[int]:
        """The steps of checkpoints that a job reads, or soon will."""
        with self._changed:
            return {*(self._wanted or ()), *(self._current or ())}

    def finished(self) -> list[Outcome]:
        """What has ended since the last call."""
        with self._changed:
            finished, self._finished = self._finished, []
            return finished

    @property
    def last(self) -> Outcome | None:
        """What ended last."""
        with self._changed:
            return self._last

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until nothing is wished for and no job runs. False if that is not so after the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._wanted is None and self._current is None, timeout_s)

    def close(self) -> None:
        """No more wishes are taken. The stack ends, if there is one of our own; a job at a service goes on."""
        with self._changed:
            self._closed, self._wanted = True, None
            self._changed.notify_all()
            thread, is_busy = self._thread, self._current is not None
        # A busy one is left: it ends with the process, which may be ending because of an error.
        if thread is not None and not is_busy:
            thread.join(END_S)

    def _work(self) -> None:
        private = not is_service_known()
        try:
            spec = build_spec(self._folder, self._val_set, self._options)
            with client_for(roots_of(spec), self._results) as client:
                while (steps := self._next()) is not None:
                    self._end(self._run(client, steps))
                    if private:
                        self._keep_newest()
        except Exception as error:
            # There is no service, and no stack can be started. The next wish tries again.
            with self._changed:
                steps, self._wanted, self._thread = self._wanted or (), None, None
            self._end(Outcome(steps=steps, error=error))

    def _next(self) -> Steps | None:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted is not None or self._closed)
            self._current, self._wanted = self._wanted, None
            return self._current

    def _run(self, client: Client, steps: Steps) -> Outcome:
        job_id = ""
        try:
            job = client.submit(self._folder, self._val_set, **with_steps(self._options, steps))
            job_id = job.id
            return Outcome(steps=steps, job_id=job_id, result=job.result())
        except Exception as error:
            return Outcome(steps=steps, job_id=job_id, error=error)

    def _end(self, outcome: Outcome) -> None:
        with self._changed:
            self._current, self._last = None, outcome
            self._finished.append(outcome)
            self._changed.notify_all()

    def _keep_newest(self) -> None:
        """On a stack of our own each result is a whole model on the training's disk."""
        if self._last is None or self._last.result is None:
            return
        folder, self._newest = self._newest, self._last.result.folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
