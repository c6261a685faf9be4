"""Checkpoints combined with fixed weights: no validation set, no task, no model; only files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ladle_engine.checkpoints import CheckpointSet, announce, discover
from ladle_engine.checkpoints.adapters.space import DELTA, in_space
from ladle_engine.checkpoints.check import check_names
from ladle_engine.checkpoints.far_parts import fetch_weights
from ladle_engine.checkpoints.inputs import inputs_of
from ladle_engine.checkpoints.quantised_codes import refuse_codes
from ladle_engine.checkpoints.readers import keeping_files_open, open_all
from ladle_engine.checkpoints.sources import CkptDir
from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients
from ladle_engine.output.adapter_result import adapter_output, as_written, refuse_for_whole_models, refuse_other_format
from ladle_engine.output.folder import SAFETENSORS, refuse_output_format
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model
from ladle_engine.output.recipe import OUTPUT_DTYPES, Recipe, output_dtypes
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.request import refuse_adapter_arguments, refuse_number
from ladle_engine.progress import CheckpointsFound, ProgressCallback, StageStarted, ignore
from ladle_engine.storage.atomic_folder import refuse_existing, staged
from ladle_engine.storage.far.door import with_far_folders
from ladle_engine.versions import installed_version


@with_far_folders
@keeping_files_open()
def combine_checkpoints(  # noqa: PLR0913  # one argument per option, as in `average`
    ckpt_dir: CkptDir,
    *,
    output: PathLike,
    weights: Sequence[float] | None = None,
    allow_any_sum: bool = False,
    dtype: str = "keep",
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int] | None = None,
    exclude: str | Sequence[str] | None = None,
    order: str = "auto",
    adapter_space: str = DELTA,
    adapter_rank: int | None = None,
    adapter_error: float | None = None,
    use_ema: bool = False,
    like: str | None = None,
    skip_tensors: str | Sequence[str] | None = None,
    take_from: Mapping[str, str | Sequence[str]] | None = None,
    component: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    output_format: str = SAFETENSORS,
    progress: ProgressCallback = ignore,
) -> Path:
    """Writes `sum_i weights_i w_i` of the checkpoints in `ckpt_dir` into the new folder `output`, with the side files.

    Reads every weight once. Floating and complex tensors are summed in float64 and rounded once; integer and boolean
    ones are the last checkpoint's. Every tensor that it stores is written, under the name that it stores it by, tied
    ones under each of theirs.

    Args:
        ckpt_dir: a folder, a glob, or a list of them.
        weights: one per checkpoint in order; all the same, which is the arithmetic mean, when absent. A
            checkpoint of weight 0 is not read.
        allow_any_sum: takes weights that do not sum to 1.
        dtype: `keep`, `float32`, `bfloat16` or `float16`; complex tensors keep theirs.
        pattern: a glob on the checkpoints' names.
        last: only the last n checkpoints.
        steps: only these steps.
        exclude: a glob, or several, of checkpoints to leave out.
        order: `auto` reads it from the names; `step`, `epoch`, `name` or `modified` (time of the last change) say it
            where the names leave it open.
        adapter_space: of LoRA adapters: `delta` averages what they add to the weights, `factors` each factor apart.
        adapter_rank: of an average in delta space; the smallest with at most `adapter_error` when absent.
        adapter_error: how much of the average may be cut off, as a share of its norm; 0.01 when absent.
        use_ema: take of each file the average that was made while training (EMA, SWA), in place of the model.
        like: a checkpoint; those of another architecture are left out.
        skip_tensors: a glob, or several, on names of tensors that are left out of the sum, whatever the weights are:
            they are the last checkpoint's. The others may have them in another shape, or not at all.
        take_from: checkpoint -> the same; they are that checkpoint's.
        component: of checkpoints that are made of several models, such as diffusers' pipelines, the name of one.
        output_format: `safetensors` or `dcp`, which is a checkpoint of torch.distributed.checkpoint; see docs/dcp.md.

    Raises:
        ValueError: `weights`, `dtype`, an argument on adapters, `max_shard_bytes` or `output_format` breaks its rule.
        CheckpointError: the checkpoints do not agree, hold tensors that have no average, or a NaN or an infinity;
            `like`, `skip_tensors` or `take_from` does not fit them; or
            the result does not fit the output's type.
        EngineError: (inputs-changed) a file was changed meanwhile.
        OutputError: `output` exists, or the disk is full.
    """
    if dtype not in OUTPUT_DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(OUTPUT_DTYPES)}, but is {dtype!r}.")
    refuse_number("max_shard_bytes", max_shard_bytes, 1)
    refuse_adapter_arguments(adapter_space, adapter_rank, adapter_error)
    refuse_output_format(output_format)
    values = None if weights is None else _numbers(weights)
    refuse_existing(Path(output))
    progress(StageStarted(stage="discover"))
    found = discover(
        ckpt_dir,
        pattern=pattern,
        exclude=exclude,
        last=last,
        steps=steps,
        order=order,
        component=component,
        use_ema=use_ema,
        like=like,
        skip_tensors=skip_tensors,
        take_from=take_from,
    )
    checkpoints = in_space(found, adapter_space)
    if checkpoints.adapters is None:
        refuse_for_whole_models(adapter_space, adapter_rank, adapter_error)
    refuse_other_format(checkpoints, output_format)
    with torch.no_grad(), open_all(checkpoints) as readers, staged(Path(output)) as staging:
        fetch_weights(readers)
        inputs = inputs_of(checkpoints, readers)
        with inputs.blamed():
            recipe = _recipe(checkpoints, values, allow_any_sum, dtype, progress)
            metadata = {"ladle_version": installed_version("ladle")}
            written = as_written(recipe, readers, adapter_output(checkpoints, adapter_rank, adapter_error, dtype))
            digests = write_model(
                staging,
                written.recipe,
                max_shard_bytes=max_shard_bytes,
                metadata=metadata,
                on_event=progress,
                output_format=output_format,
            )
            verify_model(staging, written.recipe, digests, progress)
            copy_side_files(checkpoints, staging, inputs)
            written.write_config(staging)
        inputs.refuse_changed()
    return Path(output)


def _recipe(
    checkpoints: CheckpointSet,
    weights: list[float] | None,
    allow_any_sum: bool,
    dtype: str,
    progress: ProgressCallback,
) -> Recipe:
    K = len(checkpoints.checkpoints)
    uneven = weights is not None and len(set(weights)) > 1
    announce(checkpoints, progress, order_matters=uneven)
    alpha_K = [1.0 / K] * K if weights is None else _checked(weights, checkpoints.names, allow_any_sum)
    check_names(checkpoints, progress)
    averaged = checkpoints.averaged
    progress(_found(checkpoints, averaged))
    recipe = Recipe(
        checkpoints=checkpoints,
        coefficients=Coefficients.whole_model(checkpoints.names, averaged, alpha_K),
        output_dtypes=output_dtypes(checkpoints, dtype),
        statistics={},
        keeps_own=False,
    )
    if recipe.coefficients.single() is None:
        refuse_codes(checkpoints, [each for each, alpha in zip(checkpoints.checkpoints, alpha_K, strict=True) if alpha])
    return recipe


def _found(checkpoints: CheckpointSet, floating: Sequence[str]) -> CheckpointsFound:
    dtypes = {str(checkpoints.tensors[name].dtype).removeprefix("torch.") for name in floating}
    return CheckpointsFound(
        names=checkpoints.names,
        num_parameters=sum(checkpoints.tensors[name].numel for name in floating),
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        task="",
        order=checkpoints.order,
    )


def _numbers(weights: Sequence[float]) -> list[float]:
    try:
        if isinstance(weights, str | Mapping):
            raise TypeError("neither a text nor names have an order")
        return [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`weights` must be a list of numbers, one per checkpoint in order, but is {weights!r}."
        ) from error


def _checked(values: list[float], names: Sequence[str], allow_any_sum: bool) -> list[float]:
    if len(values) != len(names):
        raise ValueError(
            f"`weights` must be one for each of the {len(names)} checkpoints, but are {len(values)}. They are "
            f"{', '.join(f'`{name}`' for name in names)}."
        )
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"`weights` must be finite, but are {values}.")
    if not allow_any_sum and abs(math.fsum(values) - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"`weights` must sum to 1 without `allow_any_sum`, but sum to {math.fsum(values)}.")
    return values
