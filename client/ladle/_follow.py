"""What a stream of events, or a wait, remembers between connections. No I/O: sync and async share it."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import ValidationError

from ladle._calls import Call, follow_events
from ladle._errors import JobCancelled, JobError, JobFailed, UnexpectedAnswer
from ladle._retry import Backoff
from ladle_contracts import TERMINAL_STATES, Event, JobRecord, JobResult, JobState, StateChanged

OUTAGE_S = 60.0
"""How long the service may be unreachable while somebody waits for a job or follows it: it may be restarting."""


class Follower:
    """How far one reader is in a job's events, so that each is seen once over any number of connections."""

    def __init__(self, job_id: str, after: str | None = None, backoff: Backoff | None = None) -> None:
        self.job_id = job_id
        self.after = after
        self.finished = False
        """Whether the event that ends the job was seen."""
        self.backoff = backoff or Backoff(patience_s=OUTAGE_S)

    def call(self) -> Call[None]:
        """The request that continues where the last connection ended."""
        return follow_events(self.job_id, self.after)

    def take(self, data: str) -> Event | None:
        """The event in a message. None for an event that was seen before, and for a message without one."""
        if not data:
            return None
        try:
            event = Event.read(data)
        except ValidationError as error:
            raise UnexpectedAnswer("The stream has a message that is not an event of Ladle's.") from error
        self.backoff.succeeded()
        if self.after is not None and _order(event.id) <= _order(self.after):
            return None
        self.after = event.id
        self.finished = is_last(event)
        return event


class Waiter:
    """The pauses and the deadline of one wait for the end of a job."""

    def __init__(self, job_id: str, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._job_id = job_id
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadline = None if timeout_s is None else clock() + timeout_s
        self._pause_s = 0.05

    @property
    def patience_s(self) -> float:
        """How long the service may be unreachable from now on."""
        return OUTAGE_S if self._deadline is None else min(OUTAGE_S, max(0.0, self._deadline - self._clock()))

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and self._clock() >= self._deadline

    def next_pause(self) -> float:
        """Seconds until the next look: short at first, then one second. Raises TimeoutError after the deadline."""
        if self.is_over:
            raise self.timeout()
        pause_s, self._pause_s = self._pause_s, min(1.0, self._pause_s * 1.5)
        return pause_s if self._deadline is None else min(pause_s, max(0.0, self._deadline - self._clock()))

    def timeout(self) -> TimeoutError:
        """The error for a job that takes longer than the caller wants to wait."""
        return TimeoutError(f"Job {self._job_id} has not ended within {self._timeout_s} s. It was not cancelled.")


def is_last(event: Event) -> bool:
    """Whether this event ends the job."""
    return isinstance(event.body, StateChanged) and event.body.state in TERMINAL_STATES


def error_of_job(record: JobRecord) -> JobError | None:
    """Why a finished job has no result. None if it has one."""
    if record.state is JobState.CANCELLED:
        return JobCancelled(record)
    return JobFailed(record) if record.state is JobState.FAILED else None


def result_of_job(record: JobRecord) -> JobResult:
    """The result of a finished job. Raises its error if there is none."""
    error = error_of_job(record)
    if error is not None:
        raise error
    if record.result is None:
        raise UnexpectedAnswer(f"Job {record.id} has succeeded, but the service sent no result.")
    return record.result


def _order(event_id: str) -> tuple[int, int]:
    """Redis stream ids are `milliseconds-number`. Compared as text, `9-0` would come after `10-0`."""
    milliseconds, _, number = event_id.partition("-")
    try:
        return int(milliseconds), int(number or 0)
    except ValueError as error:
        raise UnexpectedAnswer(f"{event_id!r} is not the id of an event.") from error
