"""What a report says of the checkpoints' ancestor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_engine.coefficients import Coefficients
from ladle_engine.methods.context import MethodContext


def base_json(context: MethodContext, files: Mapping[str, Any]) -> dict[str, Any]:
    """Its name, its files' digests, and how far each checkpoint is from it; empty for a job without one."""
    base = context.checkpoints.base
    if base is None:
        return {}
    distances = context.geometry.distances_to_base_K().tolist()
    return {"base": {"name": base.name, "files": files[base.name], "distances": distances}}


def base_weights_json(coefficients: Coefficients) -> dict[str, Any]:
    """A candidate's weights of it, one per group; empty where it takes no part."""
    return {} if coefficients.base_G is None else {"base_weights": coefficients.base_G.tolist()}
