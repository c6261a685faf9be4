"""What the engine tells while it works. The caller passes a function that takes these; the default ignores them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ladle_engine.far_names import in_far_names
from ladle_report.safe_text import one_line

STAGES = (
    *("fetch", "discover", "check", "evaluate", "train", "select"),
    *("diagnose", "write", "verify", "upload"),
)
"""Of a job, in order; some begin more than once."""


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    stage: str
    """One of `STAGES`."""
    method: str | None = None
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckpointsFound:
    names: tuple[str, ...]
    num_parameters: int
    dtype: str
    task: str
    """Empty where none is needed."""
    order: str
    """What the order of the names is by: `step`, `epoch and step`, `number in the name`, `name` and so on."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlanned:
    placement: str
    precision: str
    parts: dict[str, int]
    available_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class StepDone:
    stage: str
    step: int
    total: int
    method: str | None = None
    loss: float | None = None
    eta_s: float | None = None
    rate: float | None = None
    """How many `unit` are done per second, on average since the stage began."""
    unit: str | None = None
    """`steps`, `examples`, `checkpoints` or `bytes`."""


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """One candidate's score on one of several validation sets."""

    select: dict[str, float]
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """One candidate's score, for people and for the report."""

    method: str
    label: str
    select: dict[str, float]
    fit: dict[str, float] = field(default_factory=dict)
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    """Of this comparison alone while a job runs; in its outcome of all candidates at once."""
    sets: dict[str, SetScore] = field(default_factory=dict)
    """On each validation set that has a name."""


@dataclass(frozen=True, kw_only=True)
class CandidateScored:
    score: Score


@dataclass(frozen=True, kw_only=True)
class Warned:
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(in_far_names(self.message)))


ProgressEvent = StageStarted | CheckpointsFound | MemoryPlanned | StepDone | CandidateScored | Warned
ProgressCallback = Callable[[ProgressEvent], None]


def ignore(event: ProgressEvent) -> None:
    """The default callback."""


_listeners: list[Callable[[], None]] = []


def pulse() -> None:
    """Says that work goes on where events are rare. Cheap: for every block read or written, and every batch."""
    for listener in _listeners:
        listener()


def on_pulse(listener: Callable[[], None]) -> None:
    """`listener` is called by every `pulse` of this process from now on."""
    _listeners.append(listener)


_warned: list[ProgressCallback] = []


def warn(message: str) -> None:
    """A warning of the job that runs now, for code that is handed no callback. Without a job nobody hears it."""
    for on_event in _warned:
        on_event(Warned(message=message))


@contextmanager
def warnings_to(on_event: ProgressCallback) -> Iterator[None]:
    """Inside, `on_event` is told what `warn` says."""
    _warned.append(on_event)
    try:
        yield
    finally:
        _warned.remove(on_event)


class Pace:
    """Turns "`done` of `total`" into `StepDone` events, `per_second` at most, with the time left.

    With `unit` they have a rate too: of what `step` counts, or of the `amount` that it is given.
    """

    def __init__(
        self,
        on_event: ProgressCallback,
        stage: str,
        total: int,
        *,
        method: str | None = None,
        unit: str | None = None,
        per_second: float = 4.0,
    ) -> None:
        self._tell = on_event
        self._stage = stage
        self.total = total
        self._method = method
        self._unit = unit
        self._interval_s = 1.0 / per_second
        self._start = time.monotonic()
        self._last = float("-inf")
        self._first_done: int | None = None
        on_event(StageStarted(stage=stage, method=method, total=total))

    def step(self, done: int, loss: float | None = None, *, amount: int | None = None) -> None:
        """`amount` is how many of the unit are done since the stage began, where that is not what `done` counts."""
        now = time.monotonic()
        if self._first_done is None:
            # A resumed stage starts in the middle: what was done before says nothing about the pace.
            self._first_done = done - 1
        if done < self.total and now - self._last < self._interval_s:
            return
        self._last = now
        took_s = now - self._start
        pace = took_s / max(done - self._first_done, 1)
        amount = done - self._first_done if amount is None else amount
        self._tell(
            StepDone(
                stage=self._stage,
                method=self._method,
                step=done,
                total=self.total,
                loss=loss,
                eta_s=pace * (self.total - done),
                rate=amount / took_s if self._unit and took_s > 0 else None,
                unit=self._unit,
            )
        )
