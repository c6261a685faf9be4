"""What the curve offers as a model: the best checkpoint on it, and the best average."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.evaluation.gain import pick
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.pipeline.along.schedule import Schedule
from ladle_engine.pipeline.along.walk import Point, coefficients_of

BEST, PROFILE = "best", "profile"


def choices(context: MethodContext, schedule: Schedule, points: Sequence[Point]) -> dict[str, Choice]:
    """By method. No `profile` where no average was chosen anywhere."""
    alone = points[pick([point.alone for point in points], context.metric)]
    name = context.checkpoints.names[alone.end]
    found = {BEST: Choice(coefficients=context.one_checkpoint(alone.end), label=f"{BEST} ({name})")}
    averaged = [point for point in points if point.running is not None]
    if averaged:
        point = averaged[pick([each.average for each in averaged], context.metric)]
        coefficients = coefficients_of(context, schedule, point.running, point.end)
        found[PROFILE] = Choice(coefficients=coefficients, label=_label(context, point))
    return found


def _label(context: MethodContext, point: Point) -> str:
    assert point.running is not None, "it is an average"
    count = point.end - point.running.first + 1
    shape = point.running.shape
    if point.running.parameter is not None:
        shape = f"{shape} {point.running.parameter:.3g}"
    return f"{PROFILE} ({shape}, {count} checkpoints up to {context.checkpoints.names[point.end]})"
