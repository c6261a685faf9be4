"""A model again from `coefficients.json` and the original checkpoints, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ladle_engine.checkpoints import discover
from ladle_engine.coefficients import Coefficients
from ladle_engine.commit import staged
from ladle_engine.directions import open_all
from ladle_engine.errors import CheckpointError, MethodError
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.report import STATISTICS_FILE
from ladle_engine.write import Recipe, verify_model, write_model

PathLike = str | os.PathLike[str]


def rebuild(
    coefficients: PathLike,
    ckpt_dir: PathLike,
    *,
    output: PathLike,
    candidate: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: ProgressCallback = ignore,
) -> Path:
    """Writes the model that `coefficients` (the file `coefficients.json`) describes into the new folder `output`.

    Args:
        candidate: a method of the report other than the winner.

    Raises:
        CheckpointError: the folder lacks one of the checkpoints.
        MethodError: there is no such candidate.
        OutputError: `output` exists, or the disk is full.
    """
    recipe = load_recipe(coefficients, ckpt_dir, candidate)
    with staged(Path(output)) as staging:
        digests = write_model(staging, recipe, max_shard_bytes=max_shard_bytes, metadata={}, tell=progress)
        verify_model(staging, recipe, digests, progress)
    return Path(output)


def candidate_state(coefficients: PathLike, ckpt_dir: PathLike, candidate: str | None = None) -> dict[str, Tensor]:
    """The same as a state dict in memory, for a notebook."""
    recipe = load_recipe(coefficients, ckpt_dir, candidate)
    with open_all(recipe.checkpoints) as readers:
        return {name: recipe.tensor(name, readers).clone() for name in recipe.output_dtypes}


def load_recipe(coefficients: PathLike, ckpt_dir: PathLike, candidate: str | None = None) -> Recipe:
    """Reads `coefficients.json` and the statistics beside it, and finds the checkpoints it names."""
    path = Path(coefficients)
    saved = json.loads(path.read_text())
    chosen = candidate or saved["winner"]
    if chosen not in saved["candidates"]:
        known = ", ".join(saved["candidates"])
        raise MethodError("unknown-method", f"`candidate` must be one of {known}, but is `{chosen}`.")
    entry = saved["candidates"][chosen]
    found = discover(Path(ckpt_dir))
    by_name = {checkpoint.name: checkpoint for checkpoint in found.checkpoints}
    if missing := [name for name in entry["checkpoints"] if name not in by_name]:
        raise CheckpointError(
            "no-checkpoints", f"`ckpt_dir` must hold the checkpoint `{missing[0]}`, but `{ckpt_dir}` does not."
        )
    statistics = {}
    if entry["statistics"]:
        stored = load_file(path.parent / STATISTICS_FILE)
        statistics = {name: stored[f"{chosen}/{name}"] for name in entry["statistics"]}
    return Recipe(
        checkpoints=found.of(entry["checkpoints"]),
        coefficients=Coefficients.from_json(entry),
        output_dtypes={name: getattr(torch, dtype) for name, dtype in saved["output_dtypes"].items()},
        statistics=statistics,
    )
