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

from ladle_engine.binding import Binding, bind
from ladle_engine.buffers import choose_statistics
from ladle_engine.candidates import Candidate, run_methods, winner_of
from ladle_engine.checkpoints import CheckpointSet, check, discover
from ladle_engine.collectives import Collectives, current_collectives
from ladle_engine.commit import fresh_folder, refuse_existing, staged
from ladle_engine.directions import measure
from ladle_engine.errors import DataError, TaskError
from ladle_engine.examples import Examples, split
from ladle_engine.methods import AUTO, plan_methods
from ladle_engine.preflight import MemoryPlan, plan_memory
from ladle_engine.progress import CheckpointsFound, ProgressCallback, ProgressEvent, Score, StageStarted, Warned, ignore
from ladle_engine.report import Run, write_output
from ladle_engine.state import ResumeState, fingerprint
from ladle_engine.tasks import choose_task
from ladle_engine.tasks.base import Metric, Task
from ladle_engine.workspace import Workspace
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
        dtype=dtype, metric=metric, select_fraction=select_fraction, seed=seed, train_set_use=train_set_use
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
    state = ResumeState(
        Path(state_dir) if state_dir else None,
        fingerprint(checkpoints, settings | {"ranks": collectives.size}),
        writes=collectives.rank == 0,
    )
    work, memory = _prepare(request, chosen_task, checkpoints, splits, collectives, state, tell)
    try:
        candidates = run_methods(work, plan)
        winner = winner_of(candidates, work)
        run = Run(
            settings=settings,
            provenance=dict(provenance or {}),
            warnings=tuple(tell.warnings),
            memory=asdict(memory),
        )
        files: Mapping[str, int] = {}
        if collectives.rank == 0:
            folder = staged(Path(output)) if commit else fresh_folder(Path(output))
            with folder as staging:
                files = write_output(staging, work, candidates, winner, run, max_shard_bytes=max_shard_bytes, tell=tell)
    finally:
        work.close()
    return _outcome(Path(output), work, candidates, winner, tell, files, time.monotonic() - started)


REPORTED = frozenset(
    (
        *("ckpt_dir", "val_set", "train_set", "train_set_use", "method", "method_options", "task_options", "pattern"),
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
    task: Task,
    checkpoints: CheckpointSet,
    splits: _Splits,
    collectives: Collectives,
    state: ResumeState,
    tell: ProgressCallback,
) -> tuple[Workspace, MemoryPlan]:
    """Checks the files, builds the model, plans memory and measures the directions."""
    judged_by = _choose_metric(task, request.metric)
    check(checkpoints, tell)
    model = task.build_model(checkpoints).to(device=splits.fit.device, dtype=torch.float32)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    tell(_found(task, checkpoints, binding))
    memory = plan_memory(binding, len(checkpoints.checkpoints), splits.fit.device, collectives)
    if memory.storage != "float32":
        tell(Warned(message=f"Directions are kept as {memory.storage}: {memory.reason}."))
    statistics, warning = choose_statistics(checkpoints, binding, splits.statistics)
    if warning:
        tell(Warned(message=warning))
    if statistics.name == "recomputed" and task.batch_size < 2 * collectives.size:
        raise TaskError(
            "invalid-task-options",
            f"`batch_size` must be at least 2 for each of {collectives.size} ranks, for the model has BatchNorm, but "
            f"is {task.batch_size}.",
        )
    geometry = measure(checkpoints, binding, tell)
    for one, other in geometry.duplicates():
        names = checkpoints.names
        tell(
            Warned(
                message=f"`{names[one]}` and `{names[other]}` hold the same weights, which count twice. Leave one out "
                f"with `checkpoints`."
            )
        )
    work = Workspace(
        checkpoints=checkpoints,
        task=task,
        metric=judged_by,
        binding=binding,
        geometry=geometry,
        fit=splits.fit,
        select=splits.select,
        coefficient_examples=splits.coefficients,
        statistics=statistics,
        storage=memory.storage,
        output_dtypes=output_dtypes(checkpoints, request.dtype, binding.aliases),
        seed=request.seed,
        collectives=collectives,
        state=state,
        tell=tell,
    )
    return work, memory


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
