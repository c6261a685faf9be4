"""What a job's events say that its record does not: what was found, the memory plan, the stages and the warnings."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime

from ladle_contracts import CheckpointsFound, Event, JobState, MemoryPlanned, StageStarted, StateChanged, Warned
from ladle_service.store import JobStore

PAGE = 1000
MOST_JOBS = 200
MOST_WARNINGS = 200
MOST_STAGES = 50
"""There are some ten. Ranks say what they are called, and ranks may be anybody's."""


@dataclass
class Stage:
    """A stage of the latest attempt, which may have begun several times: once for each method."""

    name: str
    began_at: datetime | None = None
    """When it last began. None once it is over."""
    seconds: float = 0.0
    """How long it took, without what still runs."""
    was_cut: bool = False
    """Whether the job failed or was cancelled in it."""

    def end(self, moment: datetime, *, cut: bool) -> None:
        if self.began_at is not None:
            self.was_cut = cut
            self.seconds += max(0.0, (moment - self.began_at).total_seconds())
            self.began_at = None


@dataclass
class History:
    """Of one job, up to the event `seen`."""

    seen: str | None = None
    attempt: int = 0
    found: CheckpointsFound | None = None
    memory: MemoryPlanned | None = None
    stages: dict[str, Stage] = field(default_factory=dict)
    """In the order in which they began."""
    warnings: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """The next event."""
        self.seen = event.id
        if event.attempt > self.attempt:
            self.attempt, self.stages = event.attempt, {}
        match event.body:
            case CheckpointsFound():
                self.found = event.body
            case MemoryPlanned():
                self.memory = event.body
            case StageStarted(stage=name):
                self._end_stages(event.time)
                if name in self.stages or len(self.stages) < MOST_STAGES:
                    self.stages.setdefault(name, Stage(name)).began_at = event.time
            case StateChanged(state=state) if state not in (JobState.RUNNING, JobState.FINALIZING, JobState.CANCELLING):
                self._end_stages(event.time, cut=state is not JobState.SUCCEEDED)
            case Warned(message=message):
                if message not in self.warnings and len(self.warnings) < MOST_WARNINGS:
                    self.warnings.append(message)

    def _end_stages(self, moment: datetime, *, cut: bool = False) -> None:
        for stage in self.stages.values():
            stage.end(moment, cut=cut)


class Histories:
    """Those of the jobs that somebody looked at last, so that each event is read once."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, History] = OrderedDict()

    async def of(self, store: JobStore, job_id: str) -> History:
        """The history up to now."""
        history = self._known.get(job_id, History())
        while events := await store.events(job_id, history.seen, PAGE):
            for event in events:
                # Somebody else may have read the same page meanwhile.
                if history.seen is None or _order(event.id) > _order(history.seen):
                    history.take(event)
            if len(events) < PAGE:
                break
        self._known[job_id] = history
        self._known.move_to_end(job_id)
        if len(self._known) > MOST_JOBS:
            self._known.popitem(last=False)
        return history


def _order(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-"))
