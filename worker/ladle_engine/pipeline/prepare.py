"""What `average` needs before any method runs: the splits, the bound model, the memory plan, the geometry."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.checkpoints import CheckpointSet, check
from ladle_engine.directions.checkpoint_directions import STREAMED
from ladle_engine.directions.resident_rows import TIERS
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.distributed.out_of_memory import RELIEF, fits_everywhere
from ladle_engine.errors import DataError, EngineError, TaskError
from ladle_engine.methods.context import Plan, Workspace
from ladle_engine.methods.psgd import WEIGHT_VECTORS, Psgd
from ladle_engine.model.binding import Binding, bind
from ladle_engine.model.groups import group
from ladle_engine.model.statistics import batch_norms, choose_statistics, each_on_its_own
from ladle_engine.output.model_writer import OUTPUT_DTYPES, output_dtypes
from ladle_engine.placements.fsdp_model import build_sharded
from ladle_engine.placements.memory_plan import (
    PeakMemory,
    available_bytes,
    demand_of,
    largest_over_ranks,
    plans,
    smallest_over_ranks,
    supported,
)
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.placements.strategies import SHARDED_MODEL
from ladle_engine.progress import CheckpointsFound, MemoryPlanned, ProgressCallback, Warned
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.geometry import measure
from ladle_engine.tasks.base import Metric, Task
from ladle_engine.tasks.examples import Examples, split

DEVICES = ("cpu", "cuda")
"""Kinds of device that a job can run on."""

TRAIN_SET_USES = ("coefficients", "batchnorm")


@dataclass(frozen=True, kw_only=True)
class Request:
    dtype: str
    metric: str | None
    select_fraction: float
    seed: int
    max_shard_bytes: int
    train_set_use: str
    placement: str
    precision: str

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, tuple(OUTPUT_DTYPES)),
            ("train_set_use", self.train_set_use, TRAIN_SET_USES),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}.")
        if not isinstance(self.select_fraction, (int, float)) or not 0 < self.select_fraction < 1:
            raise ValueError(f"`select_fraction` must be between 0 and 1, but is {self.select_fraction!r}.")
        for name, number, least in (("seed", self.seed, 0), ("max_shard_bytes", self.max_shard_bytes, 1)):
            if not isinstance(number, int) or not least <= number < 2**63:
                raise ValueError(f"`{name}` must be a whole number from {least} to 2^63 - 1, but is {number!r}.")


@dataclass(frozen=True, kw_only=True)
class Splits:
    fit: Examples
    select: Examples
    coefficients: Examples
    """Trains the coefficients."""
    statistics: Examples
    """Recomputes BatchNorm."""


def open_splits(
    request: Request,
    task: Task,
    checkpoints: CheckpointSet,
    val_set: Path,
    train_set: Path | None,
    device: str | torch.device | None,
) -> Splits:
    """Raises `DataError`, also when a split would hold too few examples to train or to judge on."""
    where = _usable(device) if device is not None else _default_device()
    data = task.open_data(val_set, checkpoints)
    if len(data) < task.batch_size:
        raise DataError(
            "too-little-data",
            f"`val_set` must hold at least one batch of {task.batch_size} examples, but `{val_set}` holds {len(data)}. "
            f"Give more examples or a smaller task option `batch_size`.",
        )
    fit_indices, select_indices = split(len(data), request.select_fraction, request.seed)
    if min(len(fit_indices), len(select_indices)) < 2:
        raise DataError(
            "too-little-data",
            f"`select_fraction` must leave at least 2 examples on each side, but {request.select_fraction} of "
            f"{len(data)} examples is {len(select_indices)} to select and {len(fit_indices)} to fit.",
        )
    fit = Examples(task=task, data=data, indices=fit_indices, device=where)
    select = Examples(task=task, data=data, indices=select_indices, device=where)
    if train_set is None:
        if request.train_set_use != TRAIN_SET_USES[0]:
            raise DataError(
                "invalid-data",
                f"`train_set` must be given with `train_set_use: {request.train_set_use}`, but is absent.",
            )
        return Splits(fit=fit, select=select, coefficients=fit, statistics=fit)
    if train_set.exists() and val_set.exists() and train_set.samefile(val_set):
        raise DataError(
            "invalid-data",
            f"`train_set` must be other data than `val_set`, half of which judges, but both are `{train_set}`.",
        )
    train_data = task.open_data(train_set, checkpoints)
    if len(train_data) < 2:
        raise DataError(
            "too-little-data",
            f"`train_set` must hold at least 2 examples, but `{train_set}` holds {len(train_data)}.",
        )
    order = torch.randperm(len(train_data), generator=torch.Generator().manual_seed(request.seed))
    train = Examples(task=task, data=train_data, indices=order, device=where)
    trains = request.train_set_use == "coefficients"
    return Splits(fit=fit, select=select, coefficients=train if trains else fit, statistics=train)


def prepare(
    request: Request,
    plan: Plan,
    task: Task,
    checkpoints: CheckpointSet,
    splits: Splits,
    collectives: Collectives,
    state: ResumeState,
    tell: ProgressCallback,
) -> Workspace:
    """Checks the files, builds the model, plans memory and measures the directions."""
    judged_by = _choose_metric(task, request.metric)
    check(checkpoints, tell)
    device = splits.fit.device
    precision = supported_precision(request.precision, device, collectives, tell)
    sharded = _must_be_sharded(request.placement, precision, checkpoints, device, collectives)
    if sharded:
        model = build_sharded(task, checkpoints, collectives, device)
    else:
        model = task.build_model(checkpoints).to(device=device, dtype=torch.float32)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    tell(_found(task, checkpoints, binding))
    planned = (getattr(plan.options[method], "groups", None) for method in sorted(plan.with_starts()))
    groupings = [group(binding, grouping) for grouping in planned if grouping is not None]
    batch = _trial_batch(splits.coefficients, collectives)
    with PeakMemory(device) as peak:
        _first_trial(task, binding, splits.coefficients, batch, sharded, collectives)
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
    tell(MemoryPlanned(**asdict(fitting[0])))
    statistics, warning = choose_statistics(checkpoints, binding, splits.statistics, collectives)
    if warning:
        tell(Warned(message=warning))
    if statistics.name == "recomputed" and task.batch_size < 2 * collectives.size:
        raise TaskError(
            "invalid-task-options",
            f"`batch_size` must be at least 2 for each of {collectives.size} ranks, for the model has BatchNorm, but "
            f"is {task.batch_size}.",
        )
    dtypes = output_dtypes(checkpoints, request.dtype, binding.aliases)
    geometry = measure(checkpoints, binding, tell, collectives, device)
    for one, other in geometry.duplicates():
        names = checkpoints.names
        tell(
            Warned(
                message=f"`{names[one]}` and `{names[other]}` hold the same weights, which count twice. Leave one out "
                f"with `checkpoints`."
            )
        )
    return Workspace(
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
            tell=tell,
            narrow_output=any(dtypes[name].itemsize < 4 for name in binding.floating),
            groupings=groupings,
        ),
        output_dtypes=dtypes,
        seed=request.seed,
        collectives=collectives,
        state=state,
        tell=tell,
    )


def supported_precision(precision: str, device: torch.device, collectives: Collectives, tell: ProgressCallback) -> str:
    """Collective: the one asked for or, where the device of a rank lacks it, the next finer one that all have.

    Raises `EngineError` (invalid-placement) where there is no finer one.
    """
    if precision not in TIERS:
        return precision
    as_fine = TIERS[: TIERS.index(precision) + 1]
    # Every rank asks for all of them: with another precision on each the ranks' models would drift apart.
    had = {tier: smallest_over_ranks(supported(tier, device), collectives) for tier in reversed(as_fine)}
    if had[precision]:
        return precision
    finer = next((tier for tier, by_all in had.items() if by_all), None)
    if finer is None:
        raise EngineError(
            "invalid-placement",
            f"`precision` must be one that {device} supports on every rank, but is `{precision}`, and nothing finer is "
            f"supported either. Try `precision: {STREAMED}`.",
        )
    tell(Warned(message=f"Directions are kept as {finer}, for {device} does not support {precision}."))
    return finer


def _must_be_sharded(
    placement: str, precision: str, checkpoints: CheckpointSet, device: torch.device, collectives: Collectives
) -> bool:
    """Collective, before the model is built: whether it is to be cut over the ranks."""
    demand = demand_of(checkpoints, activations=0, has_model=False)
    return plans(demand, device, collectives, placement, precision)[0].placement == SHARDED_MODEL


def _trial_batch(examples: Examples, collectives: Collectives) -> Tensor:
    """A rank's share of one batch, and two examples at least, as BatchNorm wants."""
    most = min(examples.task.batch_size, len(examples))
    return examples.indices[: max(-(-most // collectives.size), 2)]


def _first_trial(
    task: Task, binding: Binding, examples: Examples, indices: Tensor, sharded: bool, collectives: Collectives
) -> None:
    """Collective: a `trial_step`. Raises `EngineError` (out-of-memory) on every rank where it does not fit on one."""
    if sharded:
        # FSDP2's passes are collective: the others are within one, and could not be told.
        with collectives.naming_the_lost():
            trial_step(task, binding, examples, indices)
        return
    free = available_bytes(examples.device)
    _, fits = fits_everywhere(lambda: trial_step(task, binding, examples, indices), collectives)
    if not fits:
        raise EngineError(
            "out-of-memory",
            f"`batch_size` must leave room for one forward and backward pass on every rank, but is {task.batch_size}: "
            f"a pass with {len(indices)} examples a rank ran out of memory, where {free:,} bytes were free on "
            f"{examples.device}. {RELIEF}",
        )


def trial_step(task: Task, binding: Binding, examples: Examples, indices: Tensor) -> None:
    """One forward and backward pass, whose gradients are freed as they arrive: what a training step takes."""

    def free(parameter: torch.nn.Parameter) -> None:
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(free)
        for parameter in binding.parameters.values()
        if parameter.requires_grad
    ]
    # As coefficients are trained: batch statistics keep more for backward than running ones.
    binding.model.eval()
    modules = batch_norms(binding.model)
    for module in modules:
        module.train()
    try:
        with each_on_its_own(modules):
            task.loss(binding.model, examples.batch(indices)).backward()
    finally:
        for handle in handles:
            handle.remove()


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
    )


def _usable(device: str | torch.device) -> torch.device:
    try:
        usable = torch.device(device)
        torch.empty(1, device=usable)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"`device` must be one that torch can use here, but is {device!r}: {error}") from error
    if usable.type not in DEVICES:
        raise ValueError(
            f"`device` must be one of {', '.join(DEVICES)}, where sums are float64 and memory is known, but is "
            f"{str(device)!r}."
        )
    return usable


def _default_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
