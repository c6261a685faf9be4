"""How many averages may run along: what memory says."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from ladle_engine.distributed.collectives import smallest_over_ranks
from ladle_engine.errors import EngineError
from ladle_engine.pipeline.along.schedule import Schedule, coarser
from ladle_engine.pipeline.job import Job
from ladle_engine.pipeline.prepare import EXAMPLES_SHARE, BoundModel
from ladle_engine.placements.base import BY_PARAMETER, REPLICATED, SHARDED_MODEL
from ladle_engine.placements.memory_plan import USABLE_SHARE, MemoryPlan
from ladle_engine.placements.memory_probe import available_bytes
from ladle_engine.placements.running_averages import RunningWeights
from ladle_engine.progress import MemoryPlanned, Warned
from ladle_engine.subspace.first_reading import FirstReading


class Planned(NamedTuple):
    schedule: Schedule
    weights: RunningWeights


def plan_running(job: Job, model: BoundModel, schedule: Schedule) -> Planned:
    """Collective: the averages that run along, fewer of them where memory has no room for all.

    Raises `EngineError` (out-of-memory) with the numbers where it has none for the fewest.
    """
    available = smallest_over_ranks(available_bytes(torch.device("cpu")), job.collectives)
    wanted, plan = schedule, _plan(job, model, schedule, available)
    while plan.needed_bytes > USABLE_SHARE * available:
        fewer = coarser(schedule.options)
        if fewer is None:
            raise EngineError(
                "out-of-memory",
                f"A curve must have {plan.needed_bytes:,} bytes on each rank for {plan.reason}, but {available:,} "
                f"bytes are free, of which {USABLE_SHARE:.0%} may be used. More ranks on more machines have more.",
            )
        schedule = replace(schedule, options=fewer)
        plan = _plan(job, model, schedule, available)
    if schedule is not wanted:
        job.on_event(
            Warned(
                message=f"{wanted.most_running} averages that run along do not fit into memory. There are "
                f"{plan.reason}, so fewer windows and shapes are tried."
            )
        )
    job.on_event(MemoryPlanned(**asdict(plan)))
    job.splits.keep_examples(int(EXAMPLES_SHARE * max(USABLE_SHARE * available - plan.needed_bytes, 0)))
    weights = RunningWeights(
        checkpoints=job.checkpoints,
        binding=model.binding,
        plans=[plan],
        device=job.device,
        collectives=job.collectives,
        trial=lambda: None,
        on_event=job.on_event,
        first_reading=FirstReading(job.checkpoints, model.binding, job.on_event, job.collectives, job.device),
    )
    return Planned(schedule, weights)


def _plan(job: Job, model: BoundModel, schedule: Schedule, available: int) -> MemoryPlan:
    """In the host's memory, where the averages are."""
    ranks, numbers = job.collectives.size, model.binding.num_parameters
    own = -(-numbers // ranks)
    # The newest checkpoint besides, and a tensor that is gathered from the ranks.
    kept = schedule.most_running + 1
    largest = max(parameter.numel() for parameter in model.binding.parameters.values())
    placement = SHARDED_MODEL if model.is_sharded else REPLICATED if ranks == 1 else BY_PARAMETER
    return MemoryPlan(
        placement=placement,
        precision="float32",
        parts={"vectors": 4 * (own * kept + largest)},
        available_bytes=available,
        reason=f"{schedule.most_running} averages and a checkpoint of {numbers:,} numbers as float32"
        + ("" if ranks == 1 else f", cut over {ranks} ranks"),
    )
