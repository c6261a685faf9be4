"""One job of the engine: what was asked for, and what was found to do it with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.agreement import together
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.errors import EngineError
from ladle_engine.methods.context import Plan
from ladle_engine.pipeline.along.earlier import Earlier
from ladle_engine.pipeline.base_model import Base
from ladle_engine.pipeline.job_inputs import JobInputs
from ladle_engine.pipeline.request import Request
from ladle_engine.pipeline.splits import Splits
from ladle_engine.pipeline.stages import StageClock
from ladle_engine.progress import ProgressCallback, ProgressEvent, StageStarted, Warned
from ladle_engine.resume_state import ResumeState
from ladle_engine.storage.inputs import Inputs
from ladle_engine.tasks.base import Metric, Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """Known before any weight is read."""

    request: Request
    plan: Plan
    """Which methods run."""
    task: Task
    metric: Metric
    """What candidates are judged by."""
    checkpoints: CheckpointSet
    base: Base | None = None
    """Of adapters."""
    splits: Splits
    collectives: Collectives
    inputs: Inputs
    """All files that the result depends on."""
    state: ResumeState
    record: JobInputs
    """What earlier attempts at this job have read."""
    earlier: Earlier | None = None
    """Of a merge curve, an earlier one of the same run."""
    on_event: Listener

    @property
    def device(self) -> torch.device:
        return self.splits.fit.device


@dataclass(kw_only=True)
class Listener:
    """Passes events on, and remembers the warnings and what each stage took for the report."""

    progress: ProgressCallback
    warnings: list[str] = field(default_factory=list)
    clock: StageClock = field(default_factory=StageClock)

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        elif isinstance(event, StageStarted):
            self.clock.enter(event.stage)
        self.progress(event)


def refuse_changed(job: Job, *, folders: bool = False) -> None:
    """Collective: raises `EngineError` (inputs-changed) on every rank where a file is not what it was on any.

    `folders` of data take longer: they are looked at once all methods have run, and before the result is committed.
    """
    with together(job.collectives):
        job.inputs.refuse_changed(folders=folders)


@contextmanager
def attempt(job: Job) -> Iterator[None]:
    """Collective at its beginning. Remembers the job's files until it has ended, well or by a mistake of the user's.

    An attempt that follows a crash must have the same ones. Raises `EngineError` (inputs-changed) where it has not, and
    for an error that comes of a file's being changed.
    """
    with together(job.collectives):
        job.record.begin(job.inputs)
    try:
        with job.inputs.blamed():
            yield
    except EngineError as error:
        if error.code != "inputs-changed":
            job.record.end()
        raise
    # Who commits the result may still fail, and try again.
    if job.request.commit:
        job.record.end()
