"""The one place where the contracts' models and the engine's values meet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    Catalog,
    CheckpointsFound,
    EventBody,
    JobResult,
    JobSpec,
    MemoryPlanned,
    StageStarted,
    StepDone,
    Warned,
)
from ladle_engine import Outcome, progress


def event_body(event: progress.ProgressEvent) -> EventBody:
    """An engine's event as it goes to clients."""
    match event:
        case progress.StageStarted():
            return StageStarted(**asdict(event))
        case progress.StepDone():
            return StepDone(**asdict(event))
        case progress.CheckpointsFound():
            return CheckpointsFound(**asdict(event))
        case progress.MemoryPlanned():
            return MemoryPlanned(**asdict(event))
        case progress.CandidateScored():
            return CandidateScored(candidate=candidate_result(event.score))
        case progress.Warned():
            return Warned(message=event.message)


def candidate_result(score: progress.Score) -> CandidateResult:
    return CandidateResult(**asdict(score))


def average_arguments(spec: JobSpec) -> dict[str, Any]:
    """The spec as arguments of `ladle_engine.average`, but for the paths, which the agent has resolved."""
    return {
        "method": spec.method.name,
        "method_options": dict(spec.method.options),
        "task": spec.task.name if spec.task else None,
        "task_options": dict(spec.task.options) if spec.task else {},
        "pattern": spec.checkpoints.pattern,
        "last": spec.checkpoints.last,
        "steps": spec.checkpoints.steps,
        "train_set_use": spec.train_set.use if spec.train_set else "coefficients",
        "select_fraction": spec.select_fraction,
        "metric": spec.metric,
        "dtype": spec.output.dtype,
        "max_shard_bytes": spec.output.max_shard_bytes,
        "seed": spec.seed,
        "placement": spec.resources.placement,
        "precision": spec.resources.precision,
    }


def job_result(outcome: Outcome, destination: Path) -> JobResult:
    return JobResult(
        folder=str(destination),
        method=outcome.method,
        metric=outcome.metric,
        higher_is_better=outcome.higher_is_better,
        candidates=tuple(candidate_result(score) for score in outcome.candidates),
        best_checkpoint=outcome.best_checkpoint,
        gain=outcome.gain,
        gain_low=outcome.gain_low,
        gain_high=outcome.gain_high,
        num_checkpoints=outcome.num_checkpoints,
        num_parameters=outcome.num_parameters,
        duration_s=outcome.duration_s,
        warnings=outcome.warnings,
        files=dict(outcome.files),
    )


def catalog(methods: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> Catalog:
    """The engine's plain values, checked."""
    return Catalog.model_validate({"methods": methods, "tasks": tasks}, strict=False)
