"""A running job as plain lines, for a log file or a CI run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from ladle.cli.job_picture import STAGES, JobPicture
from ladle.cli.job_view import found_line, memory_line, pace_text
from ladle.cli.render import gain_over_best, judging_metric, number
from ladle.cli.wording import in_flags
from ladle_contracts import (
    CandidateScored,
    CheckpointsFound,
    Event,
    MemoryPlanned,
    StageStarted,
    StateChanged,
    StepDone,
    UnknownEvent,
    Warned,
)

OFTEN_S, RARELY_S = 5.0, 60.0
SHARE = 0.05
"""Between two lines about steps lies this share of the time that has passed, so that long jobs have few lines."""


class JobLines:
    """Makes the lines of one job: each thing that happens once, and steps only now and then."""

    def __init__(self, picture: JobPicture, clock: Callable[[], float] = time.monotonic) -> None:
        self.picture = picture
        self._clock = clock
        self._start = clock()
        self._last_step = float("-inf")
        self._told: set[str] = set()

    def take(self, event: Event) -> str | None:
        """The line for an event; None if it says nothing new, or too little."""
        self.picture.take(event)
        match event.body:
            case StageStarted(stage=stage):
                return self._once(STAGES.get(stage, stage))
            case StepDone(step=step, total=total):
                return self._step_line() if step < total and self._is_due() else None
            case Warned(message=message):
                return self._once(f"warning: {in_flags(message)}")
            case StateChanged(state=state):
                if str(state) == "queued":
                    # Another attempt: its stages are told anew.
                    self._told -= set(STAGES.values())
                return line_of(event, self.picture)
            case _:
                return line_of(event, self.picture)

    def _once(self, line: str) -> str | None:
        if line in self._told:
            return None
        self._told.add(line)
        return line

    def _is_due(self) -> bool:
        now = self._clock()
        if now - self._last_step < min(RARELY_S, max(OFTEN_S, SHARE * (now - self._start))):
            return False
        self._last_step = now
        return True

    def _step_line(self) -> str | None:
        stage = self.picture.current
        return None if stage is None else f"{stage.title} {pace_text(stage)}"


def line_of(event: Event, picture: JobPicture) -> str | None:
    """An event as one line of plain text; None for those that say nothing new."""
    match event.body:
        case StateChanged(state=state, message=message):
            # Why a job failed is printed at the end, with the log's tail.
            return f"{state}: {in_flags(message)}" if message and state != "failed" else str(state)
        case CheckpointsFound():
            return found_line(picture)
        case MemoryPlanned():
            return memory_line(event.body)
        case CandidateScored(candidate=candidate):
            scores = ", ".join(f"{name} {number(value)}" for name, value in candidate.select.items())
            gain = gain_over_best(candidate, picture.metric or judging_metric([candidate]))
            return f"{candidate.label}: {scores}" + (f"; against the best checkpoint {gain}" if gain else "")
        case UnknownEvent(kind=kind):
            # Of a newer version, whose words for it this one does not have.
            return f"{kind}: {json.dumps(event.body.model_extra)}"
        case _:
            return None
