"""The public door: a folder of checkpoints and a validation set in, a better model out.

plan -> train -> select -> write. Every step is a call into the file of its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ladle_engine.checkpoints.adapters.space import DELTA
from ladle_engine.checkpoints.sources import CkptDir
from ladle_engine.determinism import deterministic
from ladle_engine.distributed.out_of_memory import named_out_of_memory
from ladle_engine.methods import AUTO
from ladle_engine.methods.context import MethodContext
from ladle_engine.model.adapters import num_parameters
from ladle_engine.output.folder import SAFETENSORS
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.along.draw import AlongTheRun, Drawn
from ladle_engine.pipeline.along.write import write_curve
from ladle_engine.pipeline.candidates import Candidate, run_methods, winner_of
from ladle_engine.pipeline.diagnosis.diagnose import diagnose
from ladle_engine.pipeline.forecast_report import forecast_of
from ladle_engine.pipeline.function_request import make_request
from ladle_engine.pipeline.job import Job, refuse_changed
from ladle_engine.pipeline.open_job import opened
from ladle_engine.pipeline.prepare import prepare, with_directions
from ladle_engine.pipeline.report import Run, write_output
from ladle_engine.pipeline.request import AVERAGE, CURVE, FIRST
from ladle_engine.pipeline.stated import Stated, state_gains
from ladle_engine.placements.memory_plan import AUTO as ANY
from ladle_engine.progress import ProgressCallback, Score, ignore
from ladle_engine.storage.atomic_folder import fresh_folder, staged
from ladle_engine.storage.far.door import with_far_folders
from ladle_engine.tasks.base import Metric, Task
from ladle_engine.tasks.given.functions import Loss, Metrics
from ladle_report.forecast_words import expectation


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
    """The paired 95 % interval of `gain`, which counts that the best of several was picked; see docs/methods.md."""
    visible_gain: float | None
    """The gain that the select split shows with a probability of 80 %. Here and below of the winner or, where that is
    the best checkpoint, of the average with the largest gain; None without one."""
    examples_needed: int | None
    """How many examples show a gain of the size that was measured, with that probability. None where it is 0, or has
    been seen."""
    num_checkpoints: int
    num_parameters: int
    tensors_taken: Mapping[str, int]
    """Checkpoint -> how many tensors of the model are its own as they are (`skip_tensors`, `take_from`)."""
    duration_s: float
    warnings: tuple[str, ...]
    files: Mapping[str, int]
    """File name -> size in bytes; empty on ranks other than 0."""
    words: tuple[str, ...] = ()
    """What a merge curve says; none of an average."""
    forecast: str = ""
    """What the single checkpoints promised of averaging, in a sentence (docs/forecast.md); empty where that cannot be
    told, and of a merge curve."""


@with_far_folders
def average(  # noqa: PLR0913  # one argument per option, which people name
    ckpt_dir: CkptDir,
    val_set: PathLike | Mapping[str, PathLike] | None = None,
    *,
    output: PathLike,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    loss: Loss | None = None,
    data: Iterable[Any] | Sized | Mapping[str, Any] | None = None,
    metrics: Metrics | None = None,
    kind: str = AVERAGE,
    curve_every: int | None = None,
    curve_shapes: Sequence[str] = (),
    curve_windows: int = 1,
    curve_earlier: PathLike | None = None,
    method: str = AUTO,
    method_options: Mapping[str, Any] | None = None,
    task: str | type[Task] | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int] | None = None,
    exclude: str | Sequence[str] | None = None,
    order: str = "auto",
    adapter_space: str = DELTA,
    adapter_rank: int | None = None,
    adapter_error: float | None = None,
    base_model: PathLike | None = None,
    base: PathLike | None = None,
    use_ema: bool = False,
    like: str | None = None,
    skip_tensors: str | Sequence[str] | None = None,
    take_from: Mapping[str, str | Sequence[str]] | None = None,
    component: str | None = None,
    train_set: PathLike | Iterable[Any] | Sized | None = None,
    train_set_use: str = "coefficients",
    select_fraction: float = 0.5,
    metric: str | Metric | None = None,
    judge_by: str | Mapping[str, float] = FIRST,
    no_set_worse: bool = False,
    diagnose: bool = False,
    dtype: str = "keep",
    max_shard_bytes: int = 5_000_000_000,
    output_format: str = SAFETENSORS,
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
    there than the best checkpoint. There may be several sets, as a mapping from names to paths.

    Under `torch.distributed` it is collective: every rank calls it, and rank 0 writes. The others return at once, while
    it writes: hours may lie between, and collectives time out.

    Args:
        ckpt_dir: a folder, a glob, or a list of them. Where a folder holds no checkpoints itself, those of the runs
            below it are taken; see docs/checkpoints.md.
        val_set: the path of the validation set, or of several by their names; or, in its place, `data` with `model` and
            `loss`, which need no task.
        model: a network of the checkpoints' architecture, which stays as it is, or a function that builds one.
        loss: a function of the model and a batch. It returns the loss of each example [B], or their mean.
        data: a DataLoader, a data set with `__getitem__` and `__len__`, or a list of batches; or several by name.
        metrics: a function of the model and a batch. It returns name -> a value of each example [B].
        kind: `average`, or `curve`, which draws the merge curve of a run and writes no model: see `ladle_engine.curve`,
            which has its options `curve_every`, `curve_shapes`, `curve_windows` and `curve_earlier` without `curve_`.
        method: `auto`, or one of `ladle_engine.METHODS`, with its `method_options`.
        task: the name of an installed task, a task of your own (its class, or an instance), or None to infer it from
            the folder's `config.json`.
        pattern: a glob on the checkpoints' names.
        last: only the last n checkpoints.
        steps: only these steps.
        exclude: a glob, or several, of checkpoints to leave out.
        order: of the checkpoints, which `last`, `last-k`, `ema` and `profile` go by: `auto` reads it from the names;
            `step`, `epoch`, `name` or `modified` (time of the last change) say it where the names leave it open.
        adapter_space: of LoRA adapters: `delta` averages what they add to the weights, `factors` each factor apart.
        adapter_rank: of an average in delta space; the smallest with at most `adapter_error` when absent.
        adapter_error: how much of the average may be cut off, as a share of its norm; 0.01 when absent.
        base_model: the folder of the model that the adapters are for; the one that they name when absent.
        base: the model that the checkpoints were trained from: its path, or the name of a checkpoint in the folder,
            which is then not averaged. Methods such as `wise-ft` and `model-stock` need it.
        use_ema: take of each file the average that was made while training (EMA, SWA), in place of the model.
        like: a checkpoint; those of another architecture are left out.
        skip_tensors: a glob, or several, on names of tensors that are left out of the average: every average has the
            last checkpoint's. The others may have them in another shape, or not at all.
        take_from: checkpoint -> the same; every average has that checkpoint's.
        component: of checkpoints that are made of several models, such as diffusers' pipelines, the name of one.
        train_set: training data (a path, or what `data` may be where that is given), used for `coefficients` (TWA-t),
            to recompute `batchnorm` statistics or, where it has no labels, to train coefficients by the `entropy` of
            predictions.
        metric: the name of what candidates are judged by; the first of the task, or of `metrics`, when absent. A
            `Metric` says more of one that `metrics` returns.
        judge_by: of several validation sets, the `first` one, the `mean` of all, or a weight for each that judges.
        no_set_worse: of several validation sets, whether a candidate must not be worse than the best checkpoint on any,
            beyond its 95 % interval.
        diagnose: also look at why averaging helps or not, for the report: running averages along the run, the loss on
            the lines between checkpoints and in the plane through the results, and whether they lie in one basin. About
            210 evaluations of 256 to 512 examples, and up to 26 of the select split; see docs/methods/diagnose.md.
        dtype: `keep`, `float32`, `bfloat16` or `float16`.
        output_format: `safetensors` or `dcp`, which is a checkpoint of torch.distributed.checkpoint; see docs/dcp.md.
        seed: of the splits and of the order of batches.
        placement: how directions lie over ranks: `auto`, or one of `placements.base.PLACEMENTS`.
        precision: how directions are kept: `auto`, or one of `placements.memory_plan.PRECISIONS`.
        state_dir: a folder from which a repeated call with the same arguments goes on. After a call that did not end,
            the files must be the same.
        provenance: words of your own for `report.json`.
        progress: called with every `ladle_engine.progress` event, on rank 0.
        commit: write beside `output` and rename at the end; without it, write to `output` itself, which may be an empty
            folder, for a caller that renames.

    Raises:
        EngineError: with a stable `code`; see `ladle_engine.errors`. Nothing is left behind.
        ValueError: an argument breaks its own rule.
    """
    # Here, where the arguments are all that there is.
    request = make_request(locals())
    started = time.monotonic()
    # Coefficients are trained, whatever mode the caller is in.
    with torch.inference_mode(mode=False), torch.enable_grad(), opened(request) as job:
        return _averaged(job, started)


def _averaged(job: Job, started: float) -> Outcome:
    request = job.request
    along = AlongTheRun(job) if request.kind == CURVE else None
    open_weights = with_directions if along is None else along.open_weights
    with deterministic(job.device), named_out_of_memory(), closing(prepare(job, open_weights)) as context:
        curve = None if along is None else along.draw(context)
        stated = state_gains(run_methods(context, lambda: refuse_changed(job)), context)
        candidates = stated.candidates
        winner = winner_of(candidates, context, no_set_worse=request.no_set_worse)
        diagnosis = diagnose(context, candidates, winner) if request.diagnose else None
        forecast = None if along is not None else forecast_of(context)
        refuse_changed(job, folders=True)
        job.on_event.clock.add_over_ranks(job.collectives)
        files = _write(job, context, stated, winner, diagnosis, curve, forecast) if job.collectives.rank == 0 else {}
    outcome = _outcome(job, stated, winner, files, time.monotonic() - started, context, forecast)
    return outcome if curve is None else replace(outcome, words=tuple(curve.json["words"]))


def precheck(
    ckpt_dir: CkptDir, val_set: PathLike | Mapping[str, PathLike] | None = None, *, output: PathLike, **arguments: Any
) -> None:
    """Raises what `average` would raise, with the same arguments, before it reads any weights. Writes nothing."""
    given = {**arguments, "ckpt_dir": ckpt_dir, "val_set": val_set, "output": output, "state_dir": None}
    with opened(make_request(given)):
        return


def _write(
    job: Job,
    context: MethodContext,
    stated: Stated,
    winner: Candidate,
    diagnosis: Mapping[str, Any] | None,
    curve: Drawn | None,
    forecast: Mapping[str, Any] | None,
) -> Mapping[str, int]:
    """Writes the output folder, whole or not at all; returns its files with their sizes."""
    request = job.request
    run = Run(
        settings=request.deciding_settings(job.task),
        data=request.data,
        provenance=dict(request.provenance or {}),
        warnings=job.on_event.warnings,
        memory=context.weights.plan.to_json(),
        inputs=job.inputs,
        base=None if job.base is None else job.base.stored,
        clock=job.on_event.clock,
        diagnosis=diagnosis,
        choice=stated.to_json(winner),
        forecast=forecast,
    )
    output = Path(request.output)
    with staged(output) if request.commit else fresh_folder(output, may_be_empty=True) as folder:
        if curve is None:
            files = write_output(
                folder, context, stated.candidates, winner, run, request.max_shard_bytes, request.output_format
            )
        else:
            files = write_curve(folder, context, stated.candidates, winner, run, curve)
        job.inputs.refuse_changed()
        return files


def _outcome(
    job: Job,
    stated: Stated,
    winner: Candidate,
    files: Mapping[str, int],
    duration_s: float,
    context: MethodContext,
    forecast: Mapping[str, Any] | None,
) -> Outcome:
    evidence = stated.evidence(winner)
    best = stated.candidates[0].choice.coefficients.single()
    assert best is not None, "`best` runs first and picks one checkpoint"
    return Outcome(
        folder=Path(job.request.output),
        method=winner.method,
        metric=job.metric.name,
        higher_is_better=job.metric.higher_is_better,
        candidates=tuple(candidate.score for candidate in stated.candidates),
        best_checkpoint=job.checkpoints.names[best],
        gain=winner.gain.value,
        gain_low=winner.gain.low,
        gain_high=winner.gain.high,
        visible_gain=None if evidence is None else evidence.visible_gain,
        examples_needed=None if evidence is None else evidence.examples_needed,
        forecast="" if forecast is None else expectation(forecast),
        num_checkpoints=len(job.checkpoints.names),
        num_parameters=num_parameters(context.binding, context.checkpoints),
        tensors_taken=context.tensors_taken(winner.choice.coefficients),
        duration_s=duration_s,
        warnings=tuple(job.on_event.warnings),
        files=files,
    )
