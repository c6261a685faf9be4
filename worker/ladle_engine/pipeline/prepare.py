"""What `average` needs before any method runs: the bound model, the memory plan, the statistics, the geometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch

from ladle_engine.checkpoints import CheckpointSet
from ladle_engine.checkpoints.check import check_headers, identical
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.directions.checkpoint_directions import STREAMED
from ladle_engine.directions.formats import ROW_PRECISIONS
from ladle_engine.distributed.agreement import together
from ladle_engine.distributed.collectives import Collectives, largest_over_ranks, smallest_over_ranks
from ladle_engine.errors import DataError, EngineError, TaskError
from ladle_engine.evaluation.statistics_choice import StatisticsChoice, StatisticsChooser
from ladle_engine.methods import run_once
from ladle_engine.methods.context import MethodContext
from ladle_engine.methods.plan import refuse_bad_options
from ladle_engine.model.adapters import num_parameters
from ladle_engine.model.binding import Binding, bind
from ladle_engine.model.groups import group, whole_model
from ladle_engine.model.quantisers import refuse_observing
from ladle_engine.model.statistics import NoStatistics
from ladle_engine.options import did_you_mean
from ladle_engine.output.adapter_result import adapter_output
from ladle_engine.output.recipe import output_dtypes
from ladle_engine.pipeline.ancestor import refuse_base_as_checkpoint
from ladle_engine.pipeline.base_model import bind_with_base
from ladle_engine.pipeline.first_batch import check_first_batch
from ladle_engine.pipeline.job import Job
from ladle_engine.pipeline.trial_step import TrialStep
from ladle_engine.placements.base import SHARDED_MODEL
from ladle_engine.placements.fsdp_model import build_sharded
from ladle_engine.placements.memory_plan import MemoryPlan, demand_of, plans, spare_host_bytes
from ladle_engine.placements.memory_probe import PeakMemory, supported
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.progress import CheckpointsFound, MemoryPlanned, ProgressCallback, StageStarted, Warned
from ladle_engine.subspace.first_reading import FirstReading
from ladle_engine.subspace.geometry import Geometry
from ladle_engine.tasks.base import Metric, Task
from ladle_engine.tasks.contract import broken_memory
from ladle_engine.tasks.guard import refuse
from ladle_engine.training.batch_order import ExampleOrder

EXAMPLES_SHARE = 0.5
"""Of the memory that the plan leaves, at most, holds examples that are prepared, so that none is prepared twice."""


@dataclass(frozen=True, kw_only=True)
class BoundModel:
    """The task's model, its tensors known by the checkpoints' names."""

    binding: Binding
    precision: str
    """How directions may be kept: what was asked for, or what every rank's device supports."""
    is_sharded: bool
    """Cut over the ranks by FSDP2."""


OpenWeights = Callable[[Job, BoundModel, Mapping[str, torch.dtype]], ModelWeights]
"""Collective: plans memory, and says what fills the model; the types are those in which tensors are written."""


def prepare(job: Job, open_weights: OpenWeights) -> MethodContext:
    """Collective: builds the model, plans memory, and reads all files once: checks them and fills the directions, if
    `open_weights` keeps any."""
    job.on_event(StageStarted(stage="check"))
    check_headers(job.checkpoints, job.on_event)
    tell_of_strangers(job)
    model = bind_model(job)
    dtypes = output_dtypes(job.checkpoints, job.request.dtype, model.binding.aliases)
    weights = open_weights(job, model, dtypes)
    return MethodContext(
        plan=job.plan,
        run_method=run_once,
        checkpoints=job.checkpoints,
        task=job.task,
        metric=job.metric,
        binding=model.binding,
        geometry=read_first(job, weights),
        fit=job.splits.fit,
        select=job.splits.select,
        others=job.splits.others,
        named_sets=job.request.named_sets,
        coefficient_examples=job.splits.coefficients,
        statistics=make_statistics(job, model.binding, weights),
        weights=weights,
        output_dtypes=dtypes,
        adapter_output=adapter_output(
            job.checkpoints, job.request.adapter_rank, job.request.adapter_error, job.request.dtype
        ),
        seed=job.request.seed,
        collectives=job.collectives,
        state=job.state,
        on_event=job.on_event,
    )


def bind_model(job: Job) -> BoundModel:
    """Collective: builds the task's model, whole on every rank where it fits, and finds its tensors in the files."""
    precision = supported_precision(job.request.precision, job.device, job.collectives, job.on_event)
    # Before the model is built: one that fits on no single rank must never be whole.
    demand = demand_of(job.checkpoints, activations=0, has_model=False)
    first_plan = plans(demand, job.device, job.collectives, job.request.placement, precision)[0]
    is_sharded = first_plan.placement == SHARDED_MODEL
    binding = _built(job, is_sharded)
    refuse_bad_options(job.plan, binding, job.checkpoints.names)
    job.on_event(_found(job.task, job.checkpoints, binding))
    if binding.note:
        job.on_event(Warned(message=binding.note))
    check_first_batch(job, binding)
    return BoundModel(binding=binding, precision=precision, is_sharded=is_sharded)


def _built(job: Job, is_sharded: bool) -> Binding:
    if job.base is not None:
        if is_sharded:
            raise EngineError(
                "invalid-placement",
                "`placement=` must not be `sharded-model` for adapters, whose base model is whole on every rank. Where "
                "that does not fit, give the ranks more memory.",
            )
        return bind_with_base(job.task, job.checkpoints, job.base, job.device, job.inputs)
    if is_sharded:
        model = build_sharded(job.task, job.checkpoints, job.collectives, job.device)
    else:
        model = job.task.build_model(job.checkpoints)
        if broken := broken_memory(model):
            refuse(job.task, broken)
        # `to(dtype=...)` would take complex buffers, such as rotary frequencies, for real ones.
        model = model.to(job.device).float()
    return bind(model, job.checkpoints, job.task.stored_names(model, job.checkpoints))


def plan_memory(job: Job, model: BoundModel) -> list[MemoryPlan]:
    """Collective: the ways to keep directions that fit beside a training step, the best first.

    Part of what the best one leaves goes to the examples.

    Raises `EngineError` (out-of-memory) with the numbers where none does.
    """
    with PeakMemory(job.device) as peak:
        trial_step(job, model).run_first()
    demand = demand_of(
        job.checkpoints,
        largest_over_ranks(peak.bytes, job.collectives),
        has_model=True,
        weight_vectors=job.plan.weight_vectors,
    )
    fitting = plans(demand, job.device, job.collectives, job.request.placement, model.precision, model.is_sharded)
    job.on_event(MemoryPlanned(**asdict(fitting[0])))
    spare = spare_host_bytes(fitting[0], demand, job.device, job.collectives)
    job.splits.keep_examples(int(EXAMPLES_SHARE * spare))
    return fitting


def make_statistics(job: Job, binding: Binding, weights: ModelWeights) -> StatisticsChoice:
    """Collective: how BatchNorm's statistics and other floating buffers of mixtures are made.

    Raises `TaskError` (invalid-task-options) or `DataError` (too-little-data) where a rank would see too few examples
    of a batch, and `TaskError` (model-mismatch) for buffers that change while the model is judged.
    """
    refuse_observing(job.checkpoints, binding)
    if not job.plan.mixes:
        return StatisticsChoice(policy=NoStatistics(binding))
    # With batches of one there are no batch statistics, and nothing is taken over ranks.
    if binding.running_norms and job.task.batch_size > 1:
        _refuse_empty_shares(job)
    choice = StatisticsChooser(
        checkpoints=job.checkpoints,
        binding=binding,
        examples=job.splits.statistics,
        fit=job.splits.fit,
        collectives=job.collectives,
        state=job.state,
        load_mean=partial(load_mean, job.checkpoints, binding, weights),
    ).choose()
    if choice.warning:
        job.on_event(Warned(message=choice.warning))
    return choice


def _refuse_empty_shares(job: Job) -> None:
    """BatchNorm's statistics are those of a batch over all ranks, and each rank must have an example of it."""
    ranks = job.collectives.size
    if job.task.batch_size < 2 * ranks:
        raise TaskError(
            "invalid-task-options",
            f"`batch_size` must be at least 2 per rank, because the model has BatchNorm, but is "
            f"{job.task.batch_size} with {ranks} ranks.",
        )
    examples = min(*ExampleOrder(job.splits.coefficients, job.request.seed).sizes, len(job.splits.statistics))
    if examples < ranks:
        of_a_set = " of a validation set in each step" if job.splits.coefficients.strata else ""
        raise DataError(
            "too-little-data",
            f"There must be an example to fit for each of {ranks} ranks, because the model has BatchNorm, but there "
            f"are {examples}{of_a_set}. Give more examples or fewer ranks.",
        )


def tell_of_strangers(job: Job) -> None:
    """Warns of checkpoints that cannot be judged as they are, because their own tensors do not fit."""
    strangers = []
    for checkpoint in job.checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            if not all(job.checkpoints.has_own(reader, name) for name in job.checkpoints.taken):
                strangers.append(checkpoint.name)
    if strangers:
        names = ", ".join(f"`{name}`" for name in strangers[:3]) + (" ..." if len(strangers) > 3 else "")
        job.on_event(
            Warned(
                message=f"{names}: some of the tensors that are left out of the average are absent there or have "
                f"another shape. Also when such a checkpoint is judged alone, it has those that averages have."
            )
        )


def load_mean(checkpoints: CheckpointSet, binding: Binding, weights: ModelWeights) -> None:
    """Collective: fills the model with the mean of all checkpoints, but for its statistics."""
    for name, values in binding.counters_of(checkpoints.reference).items():
        binding.counters[name].copy_(values)
    binding.load_constants()
    K, groups = len(checkpoints.names), whole_model(binding)
    weights.placement(groups).load_weights(torch.full((K, 1), 1 / K, dtype=torch.float64), groups)


def read_first(job: Job, weights: ModelWeights) -> Geometry:
    """Collective: lengths and angles of the directions. Warns of checkpoints that hold the same weights.

    Raises `CheckpointError` (non-finite, identical, mismatched), and `EngineError` (inputs-changed) where an earlier
    attempt at this job read other files.
    """
    read = weights.read_first(job.plan.mixes)
    if not read.differ:
        raise identical(job.checkpoints)
    with together(job.collectives):
        # Before the digests are believed: what was read first and what was hashed must be the same.
        job.inputs.refuse_changed(folders=False)
        job.inputs.know(read.digests)
        job.record.confirm(job.inputs)
    refuse_base_as_checkpoint(job.checkpoints, read.geometry)
    names = job.checkpoints.names
    for one, other in read.geometry.duplicates():
        job.on_event(
            Warned(
                message=f"`{names[one]}` and `{names[other]}` hold the same parameters, which count twice. Leave "
                f"one out with `exclude=`."
            )
        )
    return read.geometry


def with_directions(job: Job, model: BoundModel, dtypes: Mapping[str, torch.dtype]) -> ModelWeights:
    """Collective: what fills the model from directions, kept as memory allows."""
    memory_plans, binding = plan_memory(job, model), model.binding
    return ModelWeights(
        checkpoints=job.checkpoints,
        binding=binding,
        plans=memory_plans,
        device=job.device,
        collectives=job.collectives,
        trial=trial_step(job, model).run_again,
        on_event=job.on_event,
        narrow_output=any(dtypes[name].itemsize < 4 for name in binding.floating),
        groupings=[group(binding, grouping) for grouping in job.plan.groupings],
        first_reading=FirstReading(job.checkpoints, binding, job.on_event, job.collectives, job.device),
    )


def trial_step(job: Job, model: BoundModel) -> TrialStep:
    return TrialStep(
        binding=model.binding,
        examples=job.splits.coefficients,
        collectives=job.collectives,
        is_sharded=model.is_sharded,
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
    had = {each: smallest_over_ranks(supported(each, device), collectives) for each in reversed(as_fine)}
    if had[precision]:
        return precision
    finer = next((each for each, by_all in had.items() if by_all), None)
    if finer is None:
        raise EngineError(
            "invalid-placement",
            f"`precision=` must be one that {device} supports on every rank, but is `{precision}`, and nothing finer "
            f"is supported either. Try `precision: {STREAMED}`.",
        )
    on_event(Warned(message=f"Directions are kept as {finer}, because {device} does not support {precision}."))
    return finer


def choose_metric(task: Task, name: str | None) -> Metric:
    """The task's first one where none is named. Raises `TaskError` (unknown-metric)."""
    if name is None:
        return task.metrics[0]
    known = {metric.name: metric for metric in task.metrics}
    if name not in known:
        raise TaskError(
            "unknown-metric",
            f"`metric=` must be one of {', '.join(known)} for `{task.name}`, but is `{name}`."
            f"{did_you_mean(name, known)}",
        )
    return known[name]


def _found(task: Task, checkpoints: CheckpointSet, binding: Binding) -> CheckpointsFound:
    dtypes = {str(checkpoints.tensors[name].dtype).removeprefix("torch.") for name in binding.parameters}
    return CheckpointsFound(
        names=checkpoints.names,
        num_parameters=num_parameters(binding, checkpoints),
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        task=task.name,
        order=checkpoints.order,
    )
