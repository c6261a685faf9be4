"""The options of `submit`, as editors and type checkers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ladle._spec import PathLike
    from ladle_contracts import Adapters, CheckpointFilter, MethodChoice, Output, Resources, TaskChoice, TrainSet
    from ladle_contracts.job_spec import CurveChoice, Tracking


class SpecOptions(TypedDict, total=False):
    """The parts of `ladle_contracts.JobSpec`, where each field is explained.

    A mapping has the fields of the class beside it; a string or a path is short for its first field.
    """

    task: str | Mapping[str, Any] | TaskChoice | None
    kind: str | None
    curve: Mapping[str, Any] | CurveChoice | None
    method: str | Mapping[str, Any] | MethodChoice | None
    checkpoints: str | Mapping[str, Any] | CheckpointFilter | None
    adapters: str | Mapping[str, Any] | Adapters | None
    base: PathLike | None
    train_set: PathLike | Mapping[str, Any] | TrainSet | None
    select_fraction: float | None
    metric: str | None
    judge_by: str | Mapping[str, float] | None
    no_set_worse: bool | None
    diagnose: bool | None
    output: str | Mapping[str, Any] | Output | None
    resources: Mapping[str, Any] | Resources | None
    seed: int | None
    priority: int | None
    labels: Mapping[str, str] | None
    tracking: str | Sequence[str] | Mapping[str, Any] | Tracking | None
    webhooks: str | Sequence[str] | None
