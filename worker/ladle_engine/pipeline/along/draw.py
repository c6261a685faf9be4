"""A job that draws the merge curve: in the place of directions averages run along, and methods have chosen before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline.along.carried import Carried
from ladle_engine.pipeline.along.choices import choices
from ladle_engine.pipeline.along.depends_on import contents, depends_on
from ladle_engine.pipeline.along.facts import curve_json
from ladle_engine.pipeline.along.keys import Keys
from ladle_engine.pipeline.along.memory import plan_running
from ladle_engine.pipeline.along.schedule import Schedule
from ladle_engine.pipeline.along.walk import walk
from ladle_engine.pipeline.job import Job
from ladle_engine.pipeline.prepare import BoundModel
from ladle_engine.placements.running_averages import RunningWeights
from ladle_engine.profiles import positions_of


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A merge curve."""

    json: Mapping[str, Any]
    """As `curve.json` has it."""
    carried: Carried
    """What its models are worth."""


@dataclass
class AlongTheRun:
    """Used in this order: `open_weights`, then `draw`."""

    job: Job
    _schedule: Schedule = field(init=False)
    _weights: RunningWeights = field(init=False)

    def open_weights(self, job: Job, model: BoundModel, dtypes: Mapping[str, torch.dtype]) -> RunningWeights:
        """Collective: as many averages as memory allows."""
        positions = positions_of([checkpoint.step for checkpoint in job.checkpoints.checkpoints])
        wanted = Schedule(positions=positions, options=job.request.curve_options)
        self._schedule, self._weights = plan_running(job, model, wanted)
        return self._weights

    def draw(self, context: MethodContext) -> Drawn:
        """Collective: what the curve offers as a model are the candidates of the job then."""
        carried = Carried(
            evaluations=context.evaluations,
            keys=Keys(contents(self.job)),
            depends_on=depends_on(self.job, context, self._schedule.options),
            earlier=self.job.earlier,
        )
        carried.warn(context.on_event)
        points = walk(context, self._schedule, self._weights.running, carried)
        context.choices |= choices(context, self._schedule, points)
        context.plan = replace(context.plan, methods=tuple(context.choices))
        return Drawn(json=curve_json(context, self._schedule, points), carried=carried)
