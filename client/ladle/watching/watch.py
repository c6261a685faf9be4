"""The loop: look, inspect what is new and finished, average it, and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ladle._errors import JobError, LadleError, ServiceError, ServiceUnreachable, TooMany, Unavailable
from ladle.curve import CurvePoint
from ladle.watching.looks import Files, look, settled
from ladle.watching.ready import FEWEST, Ready, is_due, ready_of
from ladle_contracts import Inspection, Reason
from ladle_contracts.safe_text import one_line

ENDS = frozenset(
    {
        *(Reason.UNKNOWN_TASK, Reason.INVALID_TASK_OPTIONS, Reason.TASK_FAILED, Reason.MODEL_MISMATCH),
        *(Reason.INVALID_DATA, Reason.UNKNOWN_CLASSES, Reason.EMPTY_DATA, Reason.TOO_LITTLE_DATA),
        *(Reason.UNKNOWN_METRIC, Reason.MISSING_LIBRARY, Reason.UNKNOWN_METHOD, Reason.INVALID_METHOD_OPTIONS),
        *(Reason.AMBIGUOUS_ORDER, Reason.PATH_NOT_ALLOWED, Reason.RESULTS_UNWRITABLE, Reason.DISK_FULL),
        *(Reason.INVALID_PLACEMENT, Reason.VERSION_MISMATCH),
    }
)
"""What a later checkpoint would not mend."""
CALM = 1
"""An inspection loads torch, beside a training: then there is none for this many times as long as it took."""


class CannotAverage(LadleError):
    """Something is wrong that a later checkpoint would not mend."""


@dataclass(kw_only=True)
class Watch:
    """One folder, until nobody writes into it any more."""

    folder: Path
    inspect: Callable[[], Inspection]
    average: Callable[[Ready], CurvePoint]
    """Runs one job."""
    averaged: Mapping[str, float] = field(default_factory=dict)
    """Checkpoints of the last point, with the times of their last change."""
    every: int = 1
    """How many new checkpoints make an average due."""
    pause_s: float = 5.0
    """Between two looks."""
    idle_s: float | None = None
    """After this long without a change the watch ends."""
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _before: Files = field(default_factory=dict)
    _ready: Ready = field(default_factory=Ready)
    _inspected: Files = field(default_factory=dict)
    _attempted: Mapping[str, float] = field(default_factory=dict)
    _next_inspection: float = 0.0
    _said: set[str] = field(default_factory=set)

    def points(self) -> Iterator[CurvePoint]:
        """One point after the other. Raises LadleError for what a later checkpoint would not mend."""
        active_at = self.clock()
        while True:
            now = look(self.folder)
            if now != self._before:
                active_at = self.clock()
            is_idle = self.idle_s is not None and self.clock() - active_at >= self.idle_s
            self._inspect(now, is_idle)
            if is_due(self._ready, self.averaged, self._attempted, 1 if is_idle else self.every):
                yield from self._average()
            if is_idle:
                return
            self._before = now
            self.sleep(self.pause_s)

    def _inspect(self, now: Files, at_once: bool) -> None:
        """Where something is new since the last inspection, and does not change any more."""
        finished = settled(self._before, now)
        if not now:
            self._tell_once(f"Waiting for checkpoints in `{self.folder}`.")
            self._ready, self._inspected = Ready(), {}
        if finished == self._inspected or (self.clock() < self._next_inspection and not at_once):
            return
        began = self.clock()
        with self._outages_told():
            inspection = self.inspect()
            self._inspected = finished
            self._ready = ready_of(inspection, self._before, now)
            self._tell(inspection)
        self._next_inspection = self.clock() + CALM * (self.clock() - began)

    def _tell(self, inspection: Inspection) -> None:
        """What stands in the way. Raises `CannotAverage` where waiting does not help."""
        for name, message in self._ready.problems.items():
            self._tell_once(f"Left out: `{name}`. {message}")
        of_one = {row.problem.message for row in inspection.checkpoints if row.problem is not None}
        for problem in inspection.problems:
            if problem.code in ENDS and problem.message not in of_one:
                raise CannotAverage(one_line(f"{problem.message} [{problem.code}]"))
        if 0 < len(self._ready.taken) < FEWEST:
            self._tell_once(f"One checkpoint so far. An average needs {FEWEST}.")

    def _average(self) -> Iterator[CurvePoint]:
        ready = self._ready
        with self._outages_told():
            try:
                point = self.average(ready)
            except JobError as error:
                if error.reason in ENDS:
                    raise
                self._attempted = ready.taken
                self.say(f"No average this time: {error.message} [{error.reason}]")
                return
            self._attempted = self.averaged = ready.taken
            yield point

    @contextmanager
    def _outages_told(self) -> Iterator[None]:
        """A service that cannot work at the moment is asked again after the next look."""
        try:
            yield
        except (ServiceUnreachable, TooMany, Unavailable) as error:
            self.say(f"Trying again: {error}")
        except ServiceError as error:
            if error.status < 500:
                raise
            self.say(f"Trying again: {error}")

    def _tell_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)
