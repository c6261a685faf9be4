"""The curve as `report.json` and `curve.json` have it: its points, and what the last quarter of the run has brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ladle_engine.evaluation.gain import gain_over
from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline.along.schedule import Schedule
from ladle_engine.pipeline.along.walk import Point
from ladle_report.curve_words import BEST_PROFILE, curve_words

LAST = 0.75
"""Where the last quarter of the run begins, by its steps."""


def curve_json(context: MethodContext, schedule: Schedule, points: Sequence[Point]) -> dict[str, Any]:
    """All values are on the select split."""
    found = {
        "metric": context.metric.name,
        "average_is": BEST_PROFILE,
        **schedule.options.to_json(),
        "every": schedule.every,
        "points": [_point_json(context, schedule, point) for point in points],
        "last_quarter": _last_quarter(context, schedule, points),
    }
    return found | {"words": curve_words(found)}


def _point_json(context: MethodContext, schedule: Schedule, point: Point) -> dict[str, Any]:
    metric, checkpoints = context.metric, context.checkpoints.checkpoints
    first = point.end if point.running is None else point.running.first
    return {
        "checkpoint": checkpoints[point.end].name,
        "step": checkpoints[point.end].step,
        "alone": point.alone.score(metric),
        "alone_examples": len(point.alone),
        "average": point.average.score(metric),
        "average_examples": len(point.average),
        "averaged": point.end - first + 1,
        "first": checkpoints[first].name,
        "profile": None if point.running is None else asdict(point.running.profile(schedule.positions, point.end)),
        "gain": asdict(point.gain),
    }


def _last_quarter(context: MethodContext, schedule: Schedule, points: Sequence[Point]) -> dict[str, Any] | None:
    """What the averaged model has gained since; None where the curve has one point there."""
    last, positions = points[-1], schedule.positions
    begin = positions[0] + LAST * (positions[last.end] - positions[0])
    before = [point for point in points[:-1] if positions[point.end] <= begin]
    if not before:
        return None
    gain = gain_over(last.average, before[-1].average, context.metric, context.seed)
    names = context.checkpoints.names
    return {"from": names[before[-1].end], "to": names[last.end], "gain": asdict(gain)}
