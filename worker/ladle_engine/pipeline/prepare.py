"""What `average` needs before any method runs: the splits, the bound model, the memory plan, the geometry."""

from __future__ import annotations

from dataclasses import asdict

import torch

from ladle_engine.checkpoints import CheckpointSet, check
from ladle_engine.directions.checkpoint_directions import STREAMED
from ladle_engine.directions.formats import ROW_PRECISIONS
from ladle_engine.distributed.collectives import Collectives, largest_over_ranks, smallest_over_ranks
from ladle_engine.errors import EngineError, TaskError
from ladle_engine.methods.context import MethodContext, Plan
from ladle_engine.methods.psgd import WEIGHT_VECTORS, Psgd
from ladle_engine.model.binding import Binding, bind
from ladle_engine.model.groups import group
from ladle_engine.model.statistics import choose_statistics
from ladle_engine.output.recipe import output_dtypes
from ladle_engine.pipeline.request import Request
from ladle_engine.pipeline.splits import Splits
from ladle_engine.pipeline.trial_step import first_trial, trial_batch, trial_step
from ladle_engine.placements.base import SHARDED_MODEL
from ladle_engine.placements.fsdp_model import build_sharded
from ladle_engine.placements.memory_plan import demand_of, plans
from ladle_engine.placements.memory_probe import PeakMemory, supported
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.progress import CheckpointsFound, MemoryPlanned, ProgressCallback, Warned
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.geometry import measure
from ladle_engine.tasks.base import Metric, Task


def prepare(
    request: Request,
    plan: Plan,
    task: Task,
    checkpoints: CheckpointSet,
    splits: Splits,
    collectives: Collectives,
    state: ResumeState,
    on_event: ProgressCallback,
) -> MethodContext:
    """Checks the files, builds the model, plans memory and measures the directions."""
    judged_by = _choose_metric(task, request.metric)
    check(checkpoints, on_event)
    device = splits.fit.device
    precision = supported_precision(request.precision, device, collectives, on_event)
    sharded = _must_be_sharded(request.placement, precision, checkpoints, device, collectives)
    if sharded:
        model = build_sharded(task, checkpoints, collectives, device)
    else:
        model = task.build_model(checkpoints).to(device=device, dtype=torch.float32)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    on_event(_found(task, checkpoints, binding))
    planned = (getattr(plan.options[method], "groups", None) for method in sorted(plan.with_starts()))
    groupings = [group(binding, grouping) for grouping in planned if grouping is not None]
    batch = trial_batch(splits.coefficients, collectives)
    with PeakMemory(device) as peak:
        first_trial(task, binding, splits.coefficients, batch, sharded, collectives)
    fitting = plans(
        demand_of(
            checkpoints,
            largest_over_ranks(peak.bytes, collectives),
            has_model=True,
            weight_vectors=WEIGHT_VECTORS if Psgd.name in plan.with_starts() else 0,
        ),
        device,
        collectives,
        request.placement,
        precision,
        sharded,
    )
    on_event(MemoryPlanned(**asdict(fitting[0])))
    statistics, warning = choose_statistics(checkpoints, binding, splits.statistics, collectives)
    if warning:
        on_event(Warned(message=warning))
    if statistics.name == "recomputed" and task.batch_size < 2 * collectives.size:
        raise TaskError(
            "invalid-task-options",
            f"`batch_size` must be at least 2 for each of {collectives.size} ranks, for the model has BatchNorm, but "
            f"is {task.batch_size}.",
        )
    dtypes = output_dtypes(checkpoints, request.dtype, binding.aliases)
    geometry = measure(checkpoints, binding, on_event, collectives, device)
    for one, other in geometry.duplicates():
        names = checkpoints.names
        on_event(
            Warned(
                message=f"`{names[one]}` and `{names[other]}` hold the same parameters, which count twice. Leave one "
                f"out with `exclude`."
            )
        )
    return MethodContext(
        plan=plan,
        checkpoints=checkpoints,
        task=task,
        metric=judged_by,
        binding=binding,
        geometry=geometry,
        fit=splits.fit,
        select=splits.select,
        coefficient_examples=splits.coefficients,
        statistics=statistics,
        weights=ModelWeights(
            checkpoints=checkpoints,
            binding=binding,
            plans=fitting,
            device=device,
            collectives=collectives,
            # FSDP2's passes are collective: a rank that ran out of memory in one would leave the others waiting.
            trial=(lambda: None) if sharded else (lambda: trial_step(task, binding, splits.coefficients, batch)),
            on_event=on_event,
            narrow_output=any(dtypes[name].itemsize < 4 for name in binding.floating),
            groupings=groupings,
        ),
        output_dtypes=dtypes,
        seed=request.seed,
        collectives=collectives,
        state=state,
        on_event=on_event,
    )


def supported_precision(
    precision: str, device: torch.device, collectives: Collectives, on_event: ProgressCallback
) -> str:
    """Collective: the one asked for or, where the device of a rank lacks it, the next finer one that all have.

    Raises `EngineError` (invalid-placement) where there is no finer one.
    """
    if precision not in ROW_PRECISIONS:
        return precision
    as_fine = ROW_PRECISIONS[: ROW_PRECISIONS.index(precision) + 1]
    # Every rank asks for all of them: with another precision on each the ranks' models would drift apart.
    had = {precision: smallest_over_ranks(supported(precision, device), collectives) for precision in reversed(as_fine)}
    if had[precision]:
        return precision
    finer = next((precision for precision, by_all in had.items() if by_all), None)
    if finer is None:
        raise EngineError(
            "invalid-placement",
            f"`precision` must be one that {device} supports on every rank, but is `{precision}`, and nothing finer is "
            f"supported either. Try `precision: {STREAMED}`.",
        )
    on_event(Warned(message=f"Directions are kept as {finer}, for {device} does not support {precision}."))
    return finer


def _must_be_sharded(
    placement: str, precision: str, checkpoints: CheckpointSet, device: torch.device, collectives: Collectives
) -> bool:
    """Collective, before the model is built: whether it is to be cut over the ranks."""
    demand = demand_of(checkpoints, activations=0, has_model=False)
    return plans(demand, device, collectives, placement, precision)[0].placement == SHARDED_MODEL


def _choose_metric(task: Task, name: str | None) -> Metric:
    if name is None:
        return task.metrics[0]
    known = {metric.name: metric for metric in task.metrics}
    if name not in known:
        raise TaskError(
            "unknown-metric", f"`metric` must be one of {', '.join(known)} for `{task.name}`, but is `{name}`."
        )
    return known[name]


def _found(task: Task, checkpoints: CheckpointSet, binding: Binding) -> CheckpointsFound:
    dtypes = {str(checkpoints.tensors[name].dtype).removeprefix("torch.") for name in binding.parameters}
    return CheckpointsFound(
        names=checkpoints.names,
        num_parameters=binding.num_parameters,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        task=task.name,
        order=checkpoints.order,
    )
