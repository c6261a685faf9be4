"""Along the run: each checkpoint is read once, and at the ends of the curve what was tried there is evaluated.

The fit split chooses the profile at each end, the select split says how good it is: so a point is not luckier than the
checkpoint beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.gain import Gain, gain_over
from ladle_engine.evaluation.racing import race
from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline.along.carried import Carried
from ladle_engine.pipeline.along.schedule import Running, Schedule
from ladle_engine.placements.running_averages import NEWEST, RunningAverages
from ladle_engine.profiles import weights
from ladle_engine.progress import Pace


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is known at one end of the curve."""

    end: int
    """The index of the checkpoint."""
    running: Running | None
    """The average that was chosen; None for the checkpoint itself."""
    alone: Evaluation
    """Of the checkpoint, on the select split."""
    average: Evaluation
    gain: Gain
    """Of the average over the checkpoint."""


def walk(context: MethodContext, schedule: Schedule, running: RunningAverages, carried: Carried) -> list[Point]:
    """Collective: the points of the curve, in order. Reads each checkpoint once."""
    points: list[Point] = []
    pace = Pace(context.on_event, "evaluate", len(schedule.positions), method="profile", unit="checkpoints")
    for index in range(len(schedule.positions)):
        shares = {each: schedule.share(each, index) for each in schedule.running_at(index)}
        running.advance(index, shares)
        carried.advance(index, shares)
        if index in schedule.ends:
            points.append(_point(context, schedule, running, carried, index))
        pace.step(index + 1)
    running.free()
    context.evaluations.save()
    return points


def _point(context: MethodContext, schedule: Schedule, running: RunningAverages, carried: Carried, end: int) -> Point:
    """Collective. The checkpoint itself is tried as well: it is the average over a window of one."""
    tried: list[Running | None] = [None, *schedule.tried_at(end)]
    models = [coefficients_of(context, schedule, each, end) for each in tried]
    kept: Mapping[Hashable, Coefficients] = dict(
        zip((NEWEST if each is None else each for each in tried), models, strict=True)
    )
    running.offer(kept)
    carried.take_up(tried, models)
    best = race(context.evaluations, models, "fit", context.metric)
    alone, average = (context.judge(models[each], save=False).select for each in (0, best))
    context.evaluations.forget_statistics(models[:best] + models[best + 1 :])
    carried.keep(tried, models)
    return Point(
        end=end,
        running=tried[best],
        alone=alone,
        average=average,
        gain=gain_over(average, alone, context.metric, context.seed),
    )


def coefficients_of(context: MethodContext, schedule: Schedule, running: Running | None, end: int) -> Coefficients:
    """Of an average, or of the checkpoint itself, at one end of the curve."""
    if running is None:
        return context.one_checkpoint(end)
    return context.coefficients(weights(schedule.positions, end, running.profile(schedule.positions, end)))
