"""The only place that knows both the contracts' models and the engine's values."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import ladle_engine
from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    Catalog,
    CheckpointsFound,
    EventBody,
    Inspection,
    JobResult,
    JobSpec,
    MemoryPlanned,
    SetResult,
    StageStarted,
    StepDone,
    Warned,
)
from ladle_contracts.spec_fields import SPEC_FIELDS, SpecField, unknown_fields, value_of
from ladle_engine import Outcome, progress
from ladle_worker.well_formed import well_formed


def event_body(event: progress.ProgressEvent) -> EventBody:
    """An event of the engine, as it is sent to clients."""
    match event:
        case progress.StageStarted():
            return StageStarted(**well_formed(asdict(event)))
        case progress.StepDone():
            return StepDone(**well_formed(asdict(event)))
        case progress.CheckpointsFound():
            return CheckpointsFound(**well_formed(asdict(event)))
        case progress.MemoryPlanned():
            return MemoryPlanned(**well_formed(asdict(event)))
        case progress.CandidateScored():
            return CandidateScored(candidate=candidate_result(event.score))
        case progress.Warned():
            return Warned(message=well_formed(in_spec_words(event.message)))


def candidate_result(score: progress.Score) -> CandidateResult:
    fields = well_formed(asdict(score))
    return CandidateResult(**fields | {"sets": {name: SetResult(**each) for name, each in fields["sets"].items()}})


ARGUMENTS = {
    "curve.every": "curve_every",
    "curve.shapes": "curve_shapes",
    "curve.windows": "curve_windows",
    "curve.earlier": "curve_earlier",
    "method.name": "method",
    "method.options": "method_options",
    "task.name": "task",
    "task.options": "task_options",
    "adapters.space": "adapter_space",
    "adapters.rank": "adapter_rank",
    "adapters.error": "adapter_error",
    "adapters.base_model": "base_model",
    "train_set.path": "train_set",
    "train_set.use": "train_set_use",
    "output.name": "output",
    "output.format": "output_format",
}
"""Option of a job -> argument of `average`, where the argument is not just the last part of the option's path."""
PATHS = frozenset(
    {"ckpt_dir", "val_set", "adapters.base_model", "base", "train_set.path", "curve.earlier", "output.name"}
)
"""Resolved by the agent, which passes them on its own."""
NOT_FOR_THE_ENGINE = frozenset(
    {
        *("resources.nodes", "resources.min_nodes", "resources.ranks_per_node", "resources.timeout_s"),
        *("priority", "labels", "tracking.trackers", "tracking.project", "tracking.run", "webhooks"),
    }
)


def argument_of(field: SpecField) -> str:
    """What the engine calls an option: `last` for `checkpoints.last`."""
    return ARGUMENTS.get(field.path, field.name)


def average_arguments(spec: JobSpec) -> dict[str, Any]:
    """The spec as arguments of `ladle_engine.average`, except for the paths, which the agent has resolved."""
    return {
        argument_of(field): value_of(spec, field)
        for field in SPEC_FIELDS
        if field.path not in PATHS | NOT_FOR_THE_ENGINE
    }


def not_understood(spec: JobSpec) -> list[str]:
    """What a newer service has put into the spec: the job runs without it, but not in silence."""
    own = version("ladle")
    return [
        f"`{field}` was ignored, because this worker (version {own}) does not know it. Update the worker."
        for field in unknown_fields(spec)
    ]


def in_spec_words(message: str) -> str:
    """A message of the engine with the spec's names for its arguments: `last=` becomes `checkpoints.last`."""
    return _ARGUMENT.sub(lambda found: f"`{_OPTION_OF.get(found[1], found[1])}`", message)


_ARGUMENT = re.compile("`([a-z_]+)=`")
_OPTION_OF = {argument_of(field): field.path for field in SPEC_FIELDS if field.path not in NOT_FOR_THE_ENGINE}


def job_result(outcome: Outcome, destination: str) -> JobResult:
    """The result of the engine, as it is sent to clients."""
    fields = {each.name: getattr(outcome, each.name) for each in dataclasses.fields(outcome)}
    fields |= {
        "folder": destination,
        "candidates": tuple(candidate_result(score) for score in outcome.candidates),
        "warnings": tuple(in_spec_words(warning) for warning in outcome.warnings),
        "files": dict(outcome.files),
        "tensors_taken": dict(outcome.tensors_taken),
    }
    return JobResult(**well_formed(fields))


def inspection(found: ladle_engine.Inspection) -> Inspection:
    """What the engine found in a folder, as it is sent to clients."""
    fields = well_formed(found.to_json())
    fields["warnings"] = [in_spec_words(warning) for warning in fields["warnings"]]
    problems = [*fields["problems"], *(each["problem"] for each in fields["checkpoints"] if each["problem"])]
    for problem in problems:
        problem["message"] = in_spec_words(problem["message"])
    return Inspection.model_validate_json(json.dumps(fields))


def catalog(methods: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> Catalog:
    """The engine's catalogue, checked."""
    return Catalog.model_validate({"methods": methods, "tasks": tasks}, strict=False)
