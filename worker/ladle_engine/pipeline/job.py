"""One job of the engine: what was asked for, and what was found to do it with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.methods.context import Plan
from ladle_engine.pipeline.request import Request
from ladle_engine.pipeline.splits import Splits
from ladle_engine.progress import ProgressCallback, ProgressEvent, Warned
from ladle_engine.resume_state import ResumeState
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
    splits: Splits
    collectives: Collectives
    state: ResumeState
    on_event: Listener

    @property
    def device(self) -> torch.device:
        return self.splits.fit.device


@dataclass(kw_only=True)
class Listener:
    """Passes events on, and remembers the warnings for the report."""

    progress: ProgressCallback
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        self.progress(event)
