"""Checkpoints combined with fixed weights: no validation set, no task, no model; only files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.check import check_names
from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model
from ladle_engine.output.recipe import OUTPUT_DTYPES, Recipe, output_dtypes
from ladle_engine.paths import PathLike
from ladle_engine.progress import ProgressCallback, StageStarted, ignore
from ladle_engine.storage.atomic_folder import refuse_existing, staged


def combine_checkpoints(  # noqa: PLR0913  # one argument per option, as in `average`
    ckpt_dir: PathLike,
    *,
    output: PathLike,
    weights: Sequence[float] | None = None,
    allow_any_sum: bool = False,
    dtype: str = "keep",
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int] | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: ProgressCallback = ignore,
) -> Path:
    """Writes `sum_i weights_i w_i` of the checkpoints in `ckpt_dir` into the new folder `output`, with the side files.

    Reads every weight once. Floating tensors are summed in float64 and rounded once; integer and boolean ones are the
    last checkpoint's. Every tensor that is stored is written, tied ones under each of their names.

    Args:
        weights: one per checkpoint in order of step; all the same, which is the arithmetic mean, when absent. A
            checkpoint of weight 0 is not read.
        allow_any_sum: takes weights that do not sum to 1.
        dtype: `keep`, `float32`, `bfloat16` or `float16`.
        pattern: a glob on the checkpoints' names.
        last: only the last n checkpoints.
        steps: only these steps.

    Raises:
        ValueError: `weights` or `dtype` breaks its rule.
        CheckpointError: the checkpoints do not agree, or hold a NaN or an infinity.
        OutputError: `output` exists, or the disk is full.
    """
    if dtype not in OUTPUT_DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(OUTPUT_DTYPES)}, but is {dtype!r}.")
    refuse_existing(Path(output))
    progress(StageStarted(stage="discover"))
    checkpoints = discover(Path(ckpt_dir), pattern=pattern, last=last, steps=steps)
    K = len(checkpoints.checkpoints)
    alpha_K = [1.0 / K] * K if weights is None else _checked(weights, K, allow_any_sum)
    check_names(checkpoints)
    floating = [name for name, info in checkpoints.tensors.items() if info.is_floating]
    recipe = Recipe(
        checkpoints=checkpoints,
        coefficients=Coefficients.whole_model(checkpoints.names, floating, alpha_K),
        output_dtypes=output_dtypes(checkpoints, dtype),
        statistics={},
    )
    metadata = {"ladle_version": version("ladle")}
    with torch.no_grad(), staged(Path(output)) as staging:
        digests = write_model(staging, recipe, max_shard_bytes=max_shard_bytes, metadata=metadata, on_event=progress)
        verify_model(staging, recipe, digests, progress)
        copy_side_files(checkpoints, staging)
    return Path(output)


def _checked(weights: Sequence[float], K: int, allow_any_sum: bool) -> list[float]:
    values = [float(weight) for weight in weights]
    if len(values) != K:
        raise ValueError(f"`weights` must be one for each of the {K} checkpoints, but are {len(values)}.")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"`weights` must be finite, but are {values}.")
    if not allow_any_sum and abs(math.fsum(values) - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"`weights` must sum to 1 without `allow_any_sum`, but sum to {math.fsum(values)}.")
    return values
