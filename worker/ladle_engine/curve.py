"""The door to the merge curve: how good the best average is at each checkpoint of a run, beside the checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ladle_engine.average import Outcome, outcome_of
from ladle_engine.checkpoints.sources import CkptDir
from ladle_engine.determinism import deterministic
from ladle_engine.distributed.out_of_memory import named_out_of_memory
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.along.choices import PROFILE, choices
from ladle_engine.pipeline.along.facts import curve_json
from ladle_engine.pipeline.along.memory import Planned, plan_running
from ladle_engine.pipeline.along.schedule import SHAPES, CurveOptions, Schedule, refuse_too_few
from ladle_engine.pipeline.along.walk import walk
from ladle_engine.pipeline.along.write import write_curve
from ladle_engine.pipeline.candidates import run_methods, winner_of
from ladle_engine.pipeline.function_request import make_request
from ladle_engine.pipeline.job import Job, refuse_changed
from ladle_engine.pipeline.open_job import opened
from ladle_engine.pipeline.prepare import BoundModel, prepare
from ladle_engine.pipeline.report import run_of
from ladle_engine.placements.running_averages import RunningWeights
from ladle_engine.profiles import positions_of
from ladle_engine.storage.atomic_folder import fresh_folder, staged
from ladle_engine.storage.far.door import with_far_folders

NOT_OF_A_CURVE = ("method", "method_options", "diagnose", "no_set_worse")
"""Arguments of `average` that ask for something else."""


@with_far_folders
def curve(
    ckpt_dir: CkptDir,
    val_set: PathLike | Mapping[str, PathLike] | None = None,
    *,
    output: PathLike,
    every: int | None = None,
    shapes: Sequence[str] = SHAPES,
    windows: int = 1,
    **arguments: Any,
) -> Outcome:
    """Writes the merge curve of a run into the new folder `output`: `curve.json`, and a report that draws it.

    At each point, the checkpoint itself and the best average that ends there, both judged on the select split; the fit
    split chooses the average. Nothing is trained and no model is written: `rebuild` makes the best one.

    Every checkpoint is read twice: to be checked, and to move the averages. Where BatchNorm's statistics may be averaged
    or recomputed, a third time, for the mean that this is tried on. Ranks share the reading and the averages.

    Args:
        every: the curve has a point at every n-th checkpoint, and at the last; when absent at most 32, and so that a run
            that grows keeps its points.
        shapes: of the profiles that are tried; see `profiles`.
        windows: how many lengths of windows are tried between a length and its double: 1, 2 or 4.
        arguments: those of `average`, but for `method`, `method_options`, `diagnose` and `no_set_worse`.

    Raises:
        EngineError: with a stable `code`; see `ladle_engine.errors`. Nothing is left behind.
        ValueError: an argument breaks its own rule.
    """
    if wrong := next((name for name in NOT_OF_A_CURVE if name in arguments), None):
        raise ValueError(f"`{wrong}` must be absent for a curve, but is {arguments[wrong]!r}.")
    options = CurveOptions(every=every, shapes=shapes, windows=windows)
    given = {"ckpt_dir": ckpt_dir, "val_set": val_set, "output": output, "method": PROFILE, "curve": options.to_json()}
    request = make_request({**arguments, **given})
    started = time.monotonic()
    with torch.inference_mode(mode=False), opened(request) as job:
        return _drawn(job, options, started)


def _drawn(job: Job, options: CurveOptions, started: float) -> Outcome:
    steps = [checkpoint.step for checkpoint in job.checkpoints.checkpoints]
    refuse_too_few(len(steps))
    schedule = Schedule(positions=positions_of(steps), options=options)
    planned: list[Planned] = []

    def open_weights(job: Job, model: BoundModel, dtypes: Mapping[str, torch.dtype]) -> RunningWeights:
        planned.append(plan_running(job, model, schedule))
        return planned[0].weights

    with deterministic(job.device), named_out_of_memory(), closing(prepare(job, open_weights)) as context:
        schedule, weights = planned[0]
        points = walk(context, schedule, weights.running)
        context.choices |= choices(context, schedule, points)
        context.plan = replace(context.plan, methods=tuple(context.choices))
        candidates = run_methods(context, lambda: refuse_changed(job))
        winner = winner_of(candidates, context)
        found = curve_json(context, schedule, points)
        refuse_changed(job, folders=True)
        job.on_event.clock.add_over_ranks(job.collectives)
        files: Mapping[str, int] = {}
        if job.collectives.rank == 0:
            output = Path(job.request.output)
            with staged(output) if job.request.commit else fresh_folder(output, may_be_empty=True) as folder:
                files = write_curve(folder, context, candidates, winner, run_of(job, context), found)
                job.inputs.refuse_changed()
    return outcome_of(job, context, candidates, winner, files, time.monotonic() - started)
