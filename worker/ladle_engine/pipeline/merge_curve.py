"""The judging metric along the run: of every checkpoint, and of the uniform average of it and those before it."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.methods.context import MethodContext


def first_ones(context: MethodContext, count: int) -> Coefficients:
    """The uniform average of the first checkpoints."""
    alpha_K = torch.zeros(len(context.checkpoints.names), dtype=torch.float64)
    alpha_K[:count] = 1.0 / count
    return context.coefficients(alpha_K)


def merge_curve_json(context: MethodContext, compared: Collection[str]) -> dict[str, Any]:
    """What is known of it: nothing is evaluated here. `compared` are the checkpoints of a diagnosis."""
    names = context.checkpoints.names
    # Others' averages are known to nobody, and asking for hundreds of them takes a second.
    averaged = {names[0], names[-1], *compared}
    return {
        "metric": context.metric.name,
        "points": [
            {
                "checkpoint": checkpoint.name,
                "step": checkpoint.step,
                **_known(context, context.one_checkpoint(index), "alone"),
                **_known(context, first_ones(context, index + 1) if checkpoint.name in averaged else None, "average"),
                "averaged": index + 1,
            }
            for index, checkpoint in enumerate(context.checkpoints.checkpoints)
        ],
    }


def _known(context: MethodContext, coefficients: Coefficients | None, score: str) -> dict[str, Any]:
    known = None
    if coefficients is not None:
        known = context.evaluations.best_known(coefficients, "select", context.metric)
    value = None if known is None else _finite_score(known, context)
    return {score: value, f"{score}_examples": 0 if known is None else len(known)}


def _finite_score(known: Evaluation, context: MethodContext) -> float | None:
    # Of a set of which a race has seen nothing there is no mean.
    if not all(len(part) for _, part in known.sets):
        return None
    score = known.score(context.metric)
    return score if math.isfinite(score) else None
