"""What became of the tensors: averaged, copied, recomputed or left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.methods.context import MethodContext
from ladle_engine.model.statistics import RecomputedStatistics
from ladle_engine.pipeline.candidates import Candidate


def tensors_json(context: MethodContext, winner: Candidate) -> dict[str, Any]:
    """How many tensors of the result are of each kind, and why the copied ones are (reason -> how many)."""
    why = Counter[str]()
    averaged = recomputed = 0
    single = context.single_of(winner.choice.coefficients)
    made_anew = _recomputed(context, winner)
    for name in context.output_dtypes:
        if name in made_anew:
            recomputed += 1
        elif single is None and name in winner.choice.coefficients.group_of:
            averaged += 1
        else:
            why[_why_copied(context, name, single)] += 1
    return {
        "averaged": averaged,
        "copied": why.total(),
        "recomputed": recomputed,
        "left_out": len(context.checkpoints.dropped),
        "copied_why": dict(why),
    }


def _recomputed(context: MethodContext, winner: Candidate) -> set[str]:
    if context.statistics.of(winner.choice.coefficients) != RecomputedStatistics.name:
        return set()
    of_norms = {id(buffer) for norm in context.binding.running_norms for buffer in norm.buffers(recurse=False)}
    return {name for name, buffer in context.binding.statistics.items() if id(buffer) in of_norms}


def _why_copied(context: MethodContext, name: str, single: Checkpoint | None) -> str:
    checkpoints = context.checkpoints
    if single is not None and name not in checkpoints.taken:
        return f"the result is the checkpoint {single.name} itself"
    if name in checkpoints.taken:
        return f"left out of the average, from {checkpoints.taken[name]}"
    if name in context.binding.unused:
        return f"the task's model has no use for them, from {checkpoints.reference.name}"
    return f"counters and other whole numbers, from {checkpoints.reference.name}"
