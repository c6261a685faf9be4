"""What is known about a job so far, gathered from its events. How it is shown is said elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from ladle.cli.render import judging_metric, waits_of
from ladle_contracts import (
    TERMINAL_STATES,
    CandidateResult,
    CandidateScored,
    CheckpointsFound,
    Event,
    JobRecord,
    MemoryPlanned,
    StageStarted,
    StateChanged,
    StepDone,
    Warned,
)

STAGES = {
    "fetch": "fetching far files",
    "discover": "finding checkpoints",
    "check": "checking checkpoints",
    "evaluate": "evaluating checkpoints",
    "train": "choosing coefficients",
    "select": "judging on the select split",
    "diagnose": "comparing checkpoints",
    "write": "writing the model",
    "verify": "verifying the model",
    "upload": "uploading the result",
}
"""Stage -> what it does, in the order of a job."""
AGAIN = frozenset({"evaluate", "train", "select"})
"""A job comes back to these with every method, until it writes."""
RARE = frozenset({"fetch", "diagnose", "upload"})
"""Only jobs with far files, or with the option `diagnose`, have these."""


@dataclass
class Stage:
    """One stage of a job, with all its visits together."""

    name: str
    method: str | None = None
    done: int = 0
    total: int = 0
    loss: float | None = None
    eta_s: float | None = None
    rate: float | None = None
    unit: str | None = None
    spent_s: float = 0.0
    """In the visits that are over."""

    @property
    def title(self) -> str:
        """`choosing coefficients: twa`"""
        return STAGES.get(self.name, self.name) + (f": {self.method}" if self.method else "")


@dataclass
class JobPicture:
    """One job. `metric` is what judges its candidates, where the job names one."""

    job_id: str
    metric: str | None = None
    state: str = "queued"
    found: CheckpointsFound | None = None
    memory: MemoryPlanned | None = None
    attempt: int = 0
    message: str | None = None
    waits: str = ""
    """Why a queued job waits, as its record said."""
    candidates: list[CandidateResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    """By name, those that have begun."""
    current: Stage | None = None
    _began: datetime | None = None

    @classmethod
    def of(cls, record: JobRecord) -> JobPicture:
        """Before any event was seen."""
        return cls(record.id, metric=record.spec.metric, state=str(record.state), waits=waits_of(record))

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL_STATES

    @property
    def leader(self) -> CandidateResult | None:
        """The best candidate so far, if one is better than the best checkpoint."""
        ahead = [candidate for candidate in self.candidates if (candidate.gain or 0.0) > 0]
        return max(ahead, key=lambda candidate: candidate.gain or 0.0, default=None)

    @property
    def judged_by(self) -> str:
        """The metric that judges: the job's, else the task's first."""
        return self.metric or judging_metric(self.candidates)

    def take(self, event: Event) -> None:
        """Updates the picture with one event."""
        self.attempt = max(self.attempt, event.attempt)
        match event.body:
            case StateChanged(state=state, message=message):
                self._enter(str(state), message, event.time)
            case CheckpointsFound():
                self.found = event.body
            case MemoryPlanned():
                self.memory = event.body
            case StageStarted():
                self._begin(event.body, event.time)
            case StepDone():
                self._step(event.body, event.time)
            case CandidateScored(candidate=candidate):
                others = [known for known in self.candidates if known.method != candidate.method]
                self.candidates = [*others, candidate]
            case Warned(message=warning):
                if warning not in self.warnings:
                    self.warnings.append(warning)

    def plan(self) -> list[Stage]:
        """The stages of the job in their order: those that have begun, and those that will."""
        names = [name for name in STAGES if name in self.stages or (name not in RARE and not self._is_passed(name))]
        others = [name for name in self.stages if name not in STAGES]
        return [self.stages.get(name, Stage(name)) for name in (*names, *others)]

    def has_ended(self, stage: Stage) -> bool:
        """Whether a stage is over and will not come again."""
        return stage is not self.current and stage.name in self.stages and self._is_passed(stage.name)

    def _is_passed(self, name: str) -> bool:
        """Whether the job has gone beyond a stage. What comes again has ended when something after it has begun."""
        order = list(STAGES)
        last = max((order.index(each) for each in self.stages if each in order), default=-1)
        if name not in order:
            return True
        after = max(map(order.index, AGAIN)) if name in AGAIN else order.index(name)
        return self.state in ("finalizing", "succeeded") or last > after

    def _enter(self, state: str, message: str | None, time: datetime) -> None:
        self.state, self.message = state, message
        self.waits = self.waits if state == "queued" else ""
        self._leave(time)
        if state in ("queued", "scheduled"):
            # Another attempt begins from the front, with what the last one knows.
            self.stages = {}

    def _begin(self, body: StageStarted, time: datetime) -> None:
        self._leave(time)
        self._visit(body.stage)
        assert self.current is not None
        self.current.method, self.current.done, self.current.total = body.method, 0, body.total
        self.current.loss = self.current.eta_s = self.current.rate = self.current.unit = None
        self._began = time

    def _step(self, body: StepDone, time: datetime) -> None:
        if self.current is None or self.current.name != body.stage:
            self._leave(time)
            self._visit(body.stage)
            self._began = time
        stage = self.current
        assert stage is not None
        stage.method, stage.done, stage.total = body.method, body.step, body.total
        stage.loss, stage.eta_s, stage.rate, stage.unit = body.loss, body.eta_s, body.rate, body.unit

    def _visit(self, name: str) -> None:
        self.current = self.stages.setdefault(name, Stage(name))

    def _leave(self, time: datetime) -> None:
        if self.current is not None and self._began is not None:
            self.current.spent_s += max(0.0, (time - self._began).total_seconds())
        self.current = self._began = None
