"""A model again from `coefficients.json` and the original checkpoints, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.hashing import HashedReaders
from ladle_engine.checkpoints.inputs import inputs_of
from ladle_engine.checkpoints.readers import keeping_files_open, open_all
from ladle_engine.checkpoints.safetensors_file import read_all
from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import CheckpointError, MethodError
from ladle_engine.output.folder import COEFFICIENTS_FILE, STATISTICS_FILE
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model, written_names
from ladle_engine.output.recipe import Recipe
from ladle_engine.paths import PathLike
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.storage.atomic_folder import staged


@keeping_files_open()
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
        EngineError: (inputs-changed) a file was changed meanwhile.
        MethodError: there is no such candidate.
        OutputError: `output` exists, or the disk is full.
    """
    recipe, expected = load_recipe(coefficients, ckpt_dir, candidate)
    with open_all(recipe.checkpoints) as readers, staged(Path(output)) as staging:
        inputs, hashed = inputs_of(recipe.checkpoints, readers), HashedReaders(readers)
        with inputs.blamed():
            digests = write_model(
                staging,
                recipe,
                max_shard_bytes=max_shard_bytes,
                metadata={},
                on_event=progress,
                readers=hashed.readers,
            )
            _refuse_others(hashed.digests(), expected)
            verify_model(staging, recipe, digests, progress)
            copy_side_files(recipe.checkpoints, staging, inputs)
        inputs.refuse_changed()
    return Path(output)


def candidate_state(coefficients: PathLike, ckpt_dir: PathLike, candidate: str | None = None) -> dict[str, Tensor]:
    """The same as a state dict in memory, for a notebook."""
    recipe, expected = load_recipe(coefficients, ckpt_dir, candidate)
    with open_all(recipe.checkpoints) as readers:
        stored, hashed = written_names(recipe.checkpoints), HashedReaders(readers)
        state = {stored[name]: recipe.tensor(name, hashed.readers) for name in recipe.output_dtypes}
        _refuse_others(hashed.digests(), expected)
    return state


def load_recipe(
    coefficients: PathLike, ckpt_dir: PathLike, candidate: str | None = None
) -> tuple[Recipe, dict[Path, str]]:
    """Reads `coefficients.json` and the statistics beside it, and finds the checkpoints that it names.

    With the recipe come the digests that the weight files must have.
    """
    path = _coefficients_file(Path(coefficients))
    saved = _read(path)
    chosen = candidate or saved["winner"]
    if chosen not in saved["candidates"]:
        known = ", ".join(saved["candidates"])
        raise MethodError("unknown-method", f"`candidate` must be one of {known}, but is `{chosen}`.")
    entry = saved["candidates"][chosen]
    checkpoints = discover(Path(ckpt_dir), names=entry["checkpoints"])
    statistics = {}
    if entry["statistics"]:
        stored = read_all(path.parent / STATISTICS_FILE)
        statistics = {name: stored[f"{chosen}/{name}"] for name in entry["statistics"]}
    recipe = Recipe(
        checkpoints=checkpoints,
        coefficients=Coefficients.from_json(entry),
        output_dtypes={name: getattr(torch, dtype) for name, dtype in saved["output_dtypes"].items()},
        statistics=statistics,
    )
    expected = {
        path: saved["sha256"][checkpoint.name].get(path.name, "")
        for checkpoint in checkpoints.checkpoints
        for path in checkpoint.files
    }
    return recipe, expected


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


def _refuse_others(found: Mapping[Path, str], expected: Mapping[Path, str]) -> None:
    for file, digest in found.items():
        if digest != expected[file]:
            raise CheckpointError(
                "mismatched-checkpoints",
                f"Every checkpoint must be the one that the coefficients were made for, but `{file}` has changed "
                f"since: its SHA-256 differs.",
            )
