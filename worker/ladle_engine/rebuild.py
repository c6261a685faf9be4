"""A model again from `coefficients.json` and the original checkpoints, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ladle_engine.checkpoints import CheckpointSet, discover
from ladle_engine.checkpoints.lost_files import naming_lost_files
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import CheckpointError, MethodError
from ladle_engine.output.digests import input_digests
from ladle_engine.output.folder import COEFFICIENTS_FILE, STATISTICS_FILE
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model, written_names
from ladle_engine.output.recipe import Recipe
from ladle_engine.paths import PathLike
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.storage.atomic_folder import staged


@naming_lost_files
def rebuild(
    coefficients: PathLike,
    ckpt_dir: PathLike,
    *,
    output: PathLike,
    candidate: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: ProgressCallback = ignore,
) -> Path:
    """Writes the model that `coefficients` describes into the new folder `output`, with the side files.

    Args:
        coefficients: the file `coefficients.json`, or the result's folder.
        candidate: a method of the report other than the winner.

    Raises:
        CheckpointError: the folder lacks one of the checkpoints, or one has changed since.
        MethodError: there is no such candidate.
        OutputError: `output` exists, or the disk is full.
    """
    recipe = load_recipe(coefficients, ckpt_dir, candidate)
    with staged(Path(output)) as staging:
        digests = write_model(staging, recipe, max_shard_bytes=max_shard_bytes, metadata={}, on_event=progress)
        verify_model(staging, recipe, digests, progress)
        copy_side_files(recipe.checkpoints, staging)
    return Path(output)


def candidate_state(coefficients: PathLike, ckpt_dir: PathLike, candidate: str | None = None) -> dict[str, Tensor]:
    """The same as a state dict in memory, for a notebook."""
    recipe = load_recipe(coefficients, ckpt_dir, candidate)
    with open_all(recipe.checkpoints) as readers:
        stored = written_names(recipe.checkpoints)
        return {stored[name]: recipe.tensor(name, readers) for name in recipe.output_dtypes}


def load_recipe(coefficients: PathLike, ckpt_dir: PathLike, candidate: str | None = None) -> Recipe:
    """Reads `coefficients.json` and the statistics beside it, and finds the checkpoints it names, unchanged."""
    path = _coefficients_file(Path(coefficients))
    saved = _read(path)
    chosen = candidate or saved["winner"]
    if chosen not in saved["candidates"]:
        known = ", ".join(saved["candidates"])
        raise MethodError("unknown-method", f"`candidate` must be one of {known}, but is `{chosen}`.")
    entry = saved["candidates"][chosen]
    checkpoints = discover(Path(ckpt_dir), names=entry["checkpoints"])
    _refuse_changed(checkpoints, saved["sha256"])
    statistics = {}
    if entry["statistics"]:
        stored = load_file(path.parent / STATISTICS_FILE)
        statistics = {name: stored[f"{chosen}/{name}"] for name in entry["statistics"]}
    return Recipe(
        checkpoints=checkpoints,
        coefficients=Coefficients.from_json(entry),
        output_dtypes={name: getattr(torch, dtype) for name, dtype in saved["output_dtypes"].items()},
        statistics=statistics,
    )


def _coefficients_file(path: Path) -> Path:
    """The file itself, or the one in a result's folder."""
    return path / COEFFICIENTS_FILE if path.is_dir() else path


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "corrupt-checkpoint", f"`coefficients` must be the file {COEFFICIENTS_FILE}, but `{path}` is not ({error})."
        ) from error
    if not (isinstance(saved, dict) and {"winner", "candidates", "output_dtypes", "sha256"} <= saved.keys()):
        raise CheckpointError(
            "corrupt-checkpoint",
            f"`coefficients` must be the file {COEFFICIENTS_FILE} of a result, but `{path}` is something else.",
        )
    return saved


def _refuse_changed(checkpoints: CheckpointSet, digests: Mapping[str, Mapping[str, str]]) -> None:
    found = input_digests(checkpoints)
    for checkpoint in checkpoints.checkpoints:
        for file in checkpoint.files:
            if found[checkpoint.name][file.name] != digests[checkpoint.name].get(file.name):
                raise CheckpointError(
                    "mismatched-checkpoints",
                    f"Every checkpoint must be the one that the coefficients were made for, but `{file}` has changed "
                    f"since: its SHA-256 differs.",
                )
