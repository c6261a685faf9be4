"""The one public function: a folder of checkpoints and a validation set in, a better model out.

plan -> train -> select -> write. Every step is a call into the file of its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.binding import Binding, bind
from ladle_engine.buffers import batch_norms, choose_statistics, each_on_its_own
from ladle_engine.candidates import Candidate, run_methods, winner_of
from ladle_engine.checkpoints import CheckpointSet, check, discover
from ladle_engine.collectives import Collectives, current_collectives
from ladle_engine.commit import fresh_folder, refuse_existing, staged
from ladle_engine.errors import DataError, TaskError
from ladle_engine.examples import Examples, split
from ladle_engine.geometry import measure
from ladle_engine.methods import AUTO, plan_methods
from ladle_engine.methods.psgd import WEIGHT_VECTORS, Psgd
from ladle_engine.model_weights import ModelWeights
from ladle_engine.placements import SHARDED_MODEL
from ladle_engine.preflight import AUTO as ANY
from ladle_engine.preflight import PeakMemory, demand_of, largest_over_ranks, plans, supported
from ladle_engine.progress import (
    CheckpointsFound,
    MemoryPlanned,
    ProgressCallback,
    ProgressEvent,
    Score,
    StageStarted,
    Warned,
    ignore,
)
from ladle_engine.report import Run, write_output
from ladle_engine.rows import TIERS
from ladle_engine.sharded_model import build_sharded
from ladle_engine.state import ResumeState, fingerprint, same_everywhere
from ladle_engine.tasks import choose_task
from ladle_engine.tasks.base import Metric, Task
from ladle_engine.workspace import Plan, Workspace
from ladle_engine.write import OUTPUT_DTYPES, output_dtypes

PathLike = str | os.PathLike[str]
TRAIN_SET_USES = ("coefficients", "batchnorm")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `average` made."""

    folder: Path
    method: str
    """The winner; `best` when no average was better than the best checkpoint."""
    metric: str
    higher_is_better: bool
    candidates: tuple[Score, ...]
    best_checkpoint: str
    gain: float
    """On the select split, over the best checkpoint; more is better."""
    gain_low: float
    gain_high: float
    """The paired 95 % interval of `gain`."""
    num_checkpoints: int
    num_parameters: int
    duration_s: float
    warnings: tuple[str, ...]
    files: Mapping[str, int]
    """File name -> size in bytes; empty on ranks other than 0."""


def average(
    ckpt_dir: PathLike,
    val_set: PathLike,
    *,
    output: PathLike,
    method: str = AUTO,
    method_options: Mapping[str, Any] | None = None,
    task: str | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int] | None = None,
    train_set: PathLike | None = None,
    train_set_use: str = "coefficients",
    select_fraction: float = 0.5,
    metric: str | None = None,
    dtype: str = "keep",
    max_shard_bytes: int = 5_000_000_000,
    seed: int = 0,
    device: str | torch.device | None = None,
    placement: str = ANY,
    precision: str = ANY,
    state_dir: PathLike | None = None,
    provenance: Mapping[str, str] | None = None,
    progress: ProgressCallback = ignore,
    commit: bool = True,
) -> Outcome:
    """Averages the checkpoints in `ckpt_dir` and writes the best model found to the new folder `output`.

    Half of the validation set (`select_fraction`) judges the candidates and never trains; the result is never worse
    there than the best checkpoint. Under `torch.distributed` it is collective: every rank calls it, and rank 0 writes.
    The others return at once, while it writes: hours may lie between, and collectives time out.

    Args:
        method: `auto`, or one of `ladle_engine.METHODS`, with its `method_options`.
        task: the name of an installed task, a task of your own, or None to infer it from the folder's `config.json`.
        pattern: a glob on the checkpoints' names.
        last: only the last n checkpoints.
        steps: only these steps.
        train_set: training data, used for `coefficients` (TWA-t) or to recompute `batchnorm` statistics.
        metric: what candidates are judged by; the task's first when absent.
        dtype: `keep`, `float32`, `bfloat16` or `float16`.
        seed: of the splits and of the order of batches.
        placement: how directions lie over ranks: `auto`, or one of `placements.PLACEMENTS`.
        precision: how directions are kept: `auto`, or one of `preflight.PRECISIONS`.
        state_dir: a folder from which a repeated call with the same arguments goes on.
        provenance: words of your own for `report.json`.
        progress: called with every `ladle_engine.progress` event, on rank 0.
        commit: write beside `output` and rename at the end; without it, write to `output` itself, for a caller that
            renames.

    Raises:
        EngineError: with a stable `code`; see `ladle_engine.errors`. Nothing is left behind.
    """
    started = time.monotonic()
    settings = {name: _plain(value) for name, value in locals().items() if name in REPORTED}
    collectives = current_collectives()
    tell = _Listener(progress=progress if collectives.rank == 0 else ignore)
    request = _Request(
        dtype=dtype,
        metric=metric,
        select_fraction=select_fraction,
        seed=seed,
        train_set_use=train_set_use,
        placement=placement,
        precision=precision,
    )
    plan = plan_methods(method, method_options or {})
    refuse_existing(Path(output))

    tell(StageStarted(stage="discover"))
    checkpoints = discover(Path(ckpt_dir), pattern=pattern, last=last, steps=steps)
    chosen_task = choose_task(checkpoints, task, task_options or {})
    splits = _open_splits(
        request, chosen_task, checkpoints, Path(val_set), Path(train_set) if train_set else None, device
    )
    settings["task"] = chosen_task.name
    data = [Path(path) for path in (val_set, train_set) if path]
    deciding = {**settings, "batch_size": chosen_task.batch_size}
    same_everywhere(
        checkpoints, data, {name: value for name, value in deciding.items() if name not in PATHS}, collectives
    )
    state = ResumeState(
        Path(state_dir) if state_dir else None,
        fingerprint(checkpoints, data, deciding),
        writes=collectives.rank == 0,
    )
    work = _prepare(request, plan, chosen_task, checkpoints, splits, collectives, state, tell)
    try:
        candidates = run_methods(work)
        winner = winner_of(candidates, work)
        run = Run(
            settings=settings,
            provenance=dict(provenance or {}),
            warnings=tuple(tell.warnings),
            memory=work.weights.plan.to_json(),
        )
        files: Mapping[str, int] = {}
        if collectives.rank == 0:
            folder = staged(Path(output)) if commit else fresh_folder(Path(output))
            with folder as staging:
                files = write_output(staging, work, candidates, winner, run, max_shard_bytes=max_shard_bytes, tell=tell)
    finally:
        work.close()
    return _outcome(Path(output), work, candidates, winner, tell, files, time.monotonic() - started)


PATHS = ("ckpt_dir", "val_set", "train_set")
REPORTED = frozenset(
    (
        *PATHS,
        *("train_set_use", "method", "method_options", "task_options", "pattern"),
        *("last", "steps", "select_fraction", "metric", "dtype", "seed"),
    )
)
"""The arguments that decide the result; they stand in the report and name the resume state."""


def _plain(value: Any) -> Any:
    """As it goes into JSON: paths as text, sequences as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


@dataclass(frozen=True, kw_only=True)
class _Request:
    dtype: str
    metric: str | None
    select_fraction: float
    seed: int
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
        if not 0 < self.select_fraction < 1:
            raise ValueError(f"`select_fraction` must be between 0 and 1, but is {self.select_fraction}.")


@dataclass(kw_only=True)
class _Listener:
    """Passes events on, and remembers the warnings for the report."""

    progress: ProgressCallback
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        self.progress(event)


@dataclass(frozen=True, kw_only=True)
class _Splits:
    fit: Examples
    select: Examples
    coefficients: Examples
    """Trains the coefficients."""
    statistics: Examples
    """Recomputes BatchNorm."""


def _open_splits(
    request: _Request,
    task: Task,
    checkpoints: CheckpointSet,
    val_set: Path,
    train_set: Path | None,
    device: str | torch.device | None,
) -> _Splits:
    """Raises `DataError`, also when a split would hold too few examples to train or to judge on."""
    where = torch.device(device) if device is not None else _default_device()
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
        return _Splits(fit=fit, select=select, coefficients=fit, statistics=fit)
    train_data = task.open_data(train_set, checkpoints)
    order = torch.randperm(len(train_data), generator=torch.Generator().manual_seed(request.seed))
    train = Examples(task=task, data=train_data, indices=order, device=where)
    trains = request.train_set_use == "coefficients"
    return _Splits(fit=fit, select=select, coefficients=train if trains else fit, statistics=train)


def _prepare(
    request: _Request,
    plan: Plan,
    task: Task,
    checkpoints: CheckpointSet,
    splits: _Splits,
    collectives: Collectives,
    state: ResumeState,
    tell: ProgressCallback,
) -> Workspace:
    """Checks the files, builds the model, plans memory and measures the directions."""
    judged_by = _choose_metric(task, request.metric)
    check(checkpoints, tell)
    device = splits.fit.device
    precision = supported_precision(request.precision, device, tell)
    sharded = _must_be_sharded(request.placement, precision, checkpoints, device, collectives)
    if sharded:
        model = build_sharded(task, checkpoints, collectives, device)
    else:
        model = task.build_model(checkpoints).to(device=device, dtype=torch.float32)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    tell(_found(task, checkpoints, binding))
    batch = _trial_batch(splits.coefficients, collectives)
    with PeakMemory(device) as peak:
        trial_step(task, binding, splits.coefficients, batch)
    fitting = plans(
        demand_of(
            checkpoints,
            largest_over_ranks(peak.bytes, collectives),
            has_model=True,
            weight_vectors=WEIGHT_VECTORS if Psgd.name in plan.methods else 0,
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
        ),
        output_dtypes=output_dtypes(checkpoints, request.dtype, binding.aliases),
        seed=request.seed,
        collectives=collectives,
        state=state,
        tell=tell,
    )


def supported_precision(precision: str, device: torch.device, tell: ProgressCallback) -> str:
    """The one asked for, or, where the device lacks it, the next finer one that it has."""
    if supported(precision, device):
        return precision
    finer = next(tier for tier in reversed(TIERS[: TIERS.index(precision)]) if supported(tier, device))
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


def _default_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _outcome(
    folder: Path,
    work: Workspace,
    candidates: list[Candidate],
    winner: Candidate,
    tell: _Listener,
    files: Mapping[str, int],
    duration_s: float,
) -> Outcome:
    best = candidates[0].choice.coefficients.single()
    assert best is not None, "`best` runs first and picks one checkpoint"
    return Outcome(
        folder=folder,
        method=winner.method,
        metric=work.metric.name,
        higher_is_better=work.metric.higher_is_better,
        candidates=tuple(candidate.score for candidate in candidates),
        best_checkpoint=work.checkpoints.names[best],
        gain=winner.gain.value,
        gain_low=winner.gain.low,
        gain_high=winner.gain.high,
        num_checkpoints=len(work.checkpoints.names),
        num_parameters=work.binding.num_parameters,
        duration_s=duration_s,
        warnings=tuple(tell.warnings),
        files=files,
    )
