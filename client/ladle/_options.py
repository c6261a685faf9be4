"""The options of `submit`, as an editor and a type checker see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ladle._spec import PathLike
    from ladle_contracts import CheckpointFilter, MethodChoice, Output, Resources, TaskChoice, TrainSet


class SpecOptions(TypedDict, total=False):
    """Each is documented at `ladle_contracts.JobSpec`; a mapping has the fields of the class beside it."""

    task: str | Mapping[str, Any] | TaskChoice | None
    """A name, or `{"name": ..., "options": {...}}`; inferred when absent."""
    method: str | Mapping[str, Any] | MethodChoice | None
    """A name, or `{"name": ..., "options": {...}}`; `auto` when absent."""
    checkpoints: str | Mapping[str, str | int | Sequence[int]] | CheckpointFilter | None
    """A pattern such as `checkpoint-*`, or `{"pattern": ..., "last": ..., "steps": [...]}`; all when absent."""
    train_set: PathLike | Mapping[str, Any] | TrainSet | None
    """A path, or `{"path": ..., "use": "coefficients" or "batchnorm"}`."""
    select_fraction: float | None
    metric: str | None
    output: str | Mapping[str, Any] | Output | None
    """The result folder's name, or `{"name": ..., "dtype": ..., "max_shard_bytes": ...}`."""
    resources: Mapping[str, int | str] | Resources | None
    """`{"nodes": ..., "ranks_per_node": ..., "placement": ..., "precision": ...}`."""
    seed: int | None
    priority: int | None
    labels: Mapping[str, str] | None
