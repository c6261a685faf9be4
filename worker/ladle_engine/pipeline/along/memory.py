"""How many averages may run along: what memory says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import torch

from ladle_engine.distributed.collectives import largest_over_ranks, smallest_over_ranks
from ladle_engine.errors import EngineError
from ladle_engine.pipeline.along.schedule import Schedule, coarser
from ladle_engine.pipeline.job import Job
from ladle_engine.pipeline.prepare import EXAMPLES_SHARE, BoundModel
from ladle_engine.pipeline.trial_step import TrialOfJudging
from ladle_engine.placements.base import BY_PARAMETER, REPLICATED, SHARDED_MODEL
from ladle_engine.placements.memory_plan import USABLE_SHARE, MemoryPlan
from ladle_engine.placements.memory_probe import PeakMemory, available_bytes
from ladle_engine.placements.running_averages import RunningWeights
from ladle_engine.progress import MemoryPlanned, Warned
from ladle_engine.subspace.first_reading import FirstReading


class Planned(NamedTuple):
    schedule: Schedule
    weights: RunningWeights


class Fitting(NamedTuple):
    schedule: Schedule
    plan: MemoryPlan


def plan_running(job: Job, model: BoundModel, schedule: Schedule) -> Planned:
    """Collective: the averages that run along, fewer of them where memory has no room for all.

    Raises `EngineError` (out-of-memory) with the numbers where it has none for the fewest.
    """
    activations = _activations(job, model)
    wanted = schedule
    schedule, plan = fitting(
        schedule,
        sizes=[parameter.numel() for parameter in model.binding.parameters.values()],
        activations=activations,
        available=smallest_over_ranks(available_bytes(torch.device("cpu")), job.collectives),
        ranks=job.collectives.size,
        is_sharded=model.is_sharded,
    )
    if schedule is not wanted:
        job.on_event(
            Warned(
                message=f"{wanted.most_running} averages that run along do not fit into memory. There are "
                f"{plan.reason}, so fewer windows and shapes are tried."
            )
        )
    job.on_event(MemoryPlanned(**asdict(plan)))
    spare = USABLE_SHARE * plan.available_bytes - plan.needed_bytes
    job.splits.keep_examples(int(EXAMPLES_SHARE * max(spare, 0)))
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


def fitting(
    schedule: Schedule,
    *,
    sizes: Sequence[int],
    activations: int,
    available: int,
    ranks: int = 1,
    is_sharded: bool = False,
) -> Fitting:
    """What fits into so much of the host's memory on each rank, of a model whose tensors have these sizes.

    Raises `EngineError` (out-of-memory).
    """
    while True:
        plan = _plan(schedule, sizes, activations, available, ranks, is_sharded)
        if plan.needed_bytes <= USABLE_SHARE * available:
            return Fitting(schedule, plan)
        fewer = coarser(schedule.options)
        if fewer is None:
            raise EngineError(
                "out-of-memory",
                f"A curve must have {plan.needed_bytes:,} bytes on each rank for {plan.reason}, but {available:,} "
                f"bytes are free, of which {USABLE_SHARE:.0%} may be used. More ranks on more machines have more.",
            )
        schedule = replace(schedule, options=fewer)


def _activations(job: Job, model: BoundModel) -> int:
    """Collective: what a batch takes of the host's memory to be judged; on a GPU nothing, and there it is only tried.

    Raises `EngineError` (out-of-memory) where it does not fit.
    """
    trial = TrialOfJudging(
        binding=model.binding,
        examples=job.splits.select,
        collectives=job.collectives,
        is_sharded=model.is_sharded,
        generated=job.metric.generated,
    )
    with PeakMemory(job.device) as peak:
        trial.run_first()
    return 0 if job.device.type == "cuda" else largest_over_ranks(peak.bytes, job.collectives)


def _plan(
    schedule: Schedule, sizes: Sequence[int], activations: int, available: int, ranks: int, is_sharded: bool
) -> MemoryPlan:
    """In the host's memory, where the averages are."""
    numbers = sum(sizes)
    # The newest checkpoint besides, and a tensor that is gathered from the ranks.
    kept, largest = schedule.most_running + 1, max(sizes, default=0)
    return MemoryPlan(
        placement=SHARDED_MODEL if is_sharded else REPLICATED if ranks == 1 else BY_PARAMETER,
        precision="float32",
        parts={"vectors": 4 * (-(-numbers // ranks) * kept + largest), "activations": activations},
        available_bytes=available,
        reason=f"{schedule.most_running} averages and a checkpoint of {numbers:,} numbers as float32"
        + ("" if ranks == 1 else f", cut over {ranks} ranks")
        + (f", beside a batch of {activations:,} bytes" if activations else ""),
    )
