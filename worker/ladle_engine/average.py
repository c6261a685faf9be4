"""The one public function: a folder of checkpoints and a validation set in, a better model out.

plan -> train -> select -> write. Every step is a call into the file of its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints import announce, discover
from ladle_engine.checkpoints.lost_files import naming_lost_files
from ladle_engine.determinism import deterministic
from ladle_engine.distributed.collectives import current_collectives
from ladle_engine.distributed.out_of_memory import named_out_of_memory
from ladle_engine.methods import AUTO, plan_methods
from ladle_engine.methods.context import MethodContext
from ladle_engine.methods.fixed import needs_order
from ladle_engine.pipeline.candidates import Candidate, run_methods, winner_of
from ladle_engine.pipeline.prepare import prepare
from ladle_engine.pipeline.report import Run, write_output
from ladle_engine.pipeline.request import Request
from ladle_engine.pipeline.splits import open_splits
from ladle_engine.placements.memory_plan import AUTO as ANY
from ladle_engine.progress import ProgressCallback, ProgressEvent, Score, StageStarted, Warned, ignore
from ladle_engine.resume_state import ResumeState, fingerprint, same_everywhere
from ladle_engine.storage.atomic_folder import fresh_folder, refuse_existing, staged
from ladle_engine.tasks import choose_task
from ladle_engine.tasks.base import Task

PathLike = str | os.PathLike[str]


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


@naming_lost_files
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
    exclude: str | Sequence[str] | None = None,
    order: str = "auto",
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
        exclude: a glob, or several, of checkpoints to leave out.
        order: of the checkpoints, which `last`, `last-k` and `ema` go by: `auto` reads it from the names; `step`,
            `epoch`, `name` or `modified` (time of the last change) say it where the names leave it open.
        train_set: training data, used for `coefficients` (TWA-t) or to recompute `batchnorm` statistics.
        metric: what candidates are judged by; the task's first when absent.
        dtype: `keep`, `float32`, `bfloat16` or `float16`.
        seed: of the splits and of the order of batches.
        placement: how directions lie over ranks: `auto`, or one of `placements.PLACEMENTS`.
        precision: how directions are kept: `auto`, or one of `preflight.PRECISIONS`.
        state_dir: a folder from which a repeated call with the same arguments and unchanged files goes on.
        provenance: words of your own for `report.json`.
        progress: called with every `ladle_engine.progress` event, on rank 0.
        commit: write beside `output` and rename at the end; without it, write to `output` itself, for a caller that
            renames.

    Raises:
        EngineError: with a stable `code`; see `ladle_engine.errors`. Nothing is left behind.
        ValueError: an argument breaks its own rule.
    """
    started = time.monotonic()
    settings = {name: _plain(value) for name, value in locals().items() if name in REPORTED}
    collectives = current_collectives()
    on_event = _Listener(progress=progress if collectives.rank == 0 else ignore)
    request = Request(
        dtype=dtype,
        metric=metric,
        select_fraction=select_fraction,
        seed=seed,
        max_shard_bytes=max_shard_bytes,
        train_set_use=train_set_use,
        placement=placement,
        precision=precision,
    )
    plan = plan_methods(method, method_options or {})
    refuse_existing(Path(output))

    on_event(StageStarted(stage="discover"))
    checkpoints = discover(Path(ckpt_dir), pattern=pattern, exclude=exclude, last=last, steps=steps, order=order)
    announce(checkpoints, on_event, order_matters=needs_order(plan))
    chosen_task = choose_task(checkpoints, task, task_options or {})
    splits = open_splits(
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
        collectives=collectives,
    )
    with deterministic(splits.fit.device), named_out_of_memory():
        context = prepare(request, plan, chosen_task, checkpoints, splits, collectives, state, on_event)
        with closing(context):
            candidates = run_methods(context)
            winner = winner_of(candidates, context)
            run = Run(
                settings=settings,
                provenance=dict(provenance or {}),
                warnings=tuple(on_event.warnings),
                memory=context.weights.plan.to_json(),
            )
            files: Mapping[str, int] = {}
            if collectives.rank == 0:
                folder = staged(Path(output)) if commit else fresh_folder(Path(output))
                with folder as staging:
                    files = write_output(
                        staging, context, candidates, winner, run, max_shard_bytes=max_shard_bytes, on_event=on_event
                    )
    return _outcome(Path(output), context, candidates, winner, on_event, files, time.monotonic() - started)


PATHS = ("ckpt_dir", "val_set", "train_set")
REPORTED = frozenset(
    (
        *PATHS,
        *("train_set_use", "method", "method_options", "task_options", "pattern"),
        *("exclude", "last", "steps", "order"),
        *("select_fraction", "metric", "dtype", "seed", "precision"),
    )
)
"""The arguments that decide the result; they stand in the report and name the resume state. Placements do not."""


def _plain(value: Any) -> Any:
    """As it goes into JSON: paths as text, sequences as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


@dataclass(kw_only=True)
class _Listener:
    """Passes events on, and remembers the warnings for the report."""

    progress: ProgressCallback
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.message)
        self.progress(event)


def _outcome(
    folder: Path,
    context: MethodContext,
    candidates: list[Candidate],
    winner: Candidate,
    on_event: _Listener,
    files: Mapping[str, int],
    duration_s: float,
) -> Outcome:
    best = candidates[0].choice.coefficients.single()
    assert best is not None, "`best` runs first and picks one checkpoint"
    return Outcome(
        folder=folder,
        method=winner.method,
        metric=context.metric.name,
        higher_is_better=context.metric.higher_is_better,
        candidates=tuple(candidate.score for candidate in candidates),
        best_checkpoint=context.checkpoints.names[best],
        gain=winner.gain.value,
        gain_low=winner.gain.low,
        gain_high=winner.gain.high,
        num_checkpoints=len(context.checkpoints.names),
        num_parameters=context.binding.num_parameters,
        duration_s=duration_s,
        warnings=tuple(on_event.warnings),
        files=files,
    )
