"""A model again from `coefficients.json` and the original checkpoints, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.adapters.space import DELTA, in_space
from ladle_engine.checkpoints.far_parts import fetch_weights
from ladle_engine.checkpoints.hashing import HashedReaders
from ladle_engine.checkpoints.inputs import inputs_of
from ladle_engine.checkpoints.readers import keeping_files_open, open_all
from ladle_engine.checkpoints.safetensors_file import read_all
from ladle_engine.checkpoints.sources import CkptDir
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import CheckpointError
from ladle_engine.output.adapter_result import AdapterOutput, adapter_output, as_written, refuse_other_format
from ladle_engine.output.folder import COEFFICIENTS_FILE, SAFETENSORS, STATISTICS_FILE, refuse_output_format
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model, written_names
from ladle_engine.output.recipe import Recipe
from ladle_engine.output.saved_coefficients import SavedCoefficients, parse_coefficients
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.ancestor import find_base, joined
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.storage.atomic_folder import staged
from ladle_engine.storage.far.door import with_far_folders


@with_far_folders
@keeping_files_open()
def rebuild(
    coefficients: PathLike,
    ckpt_dir: CkptDir,
    *,
    output: PathLike,
    candidate: str | None = None,
    base: PathLike | None = None,
    max_shard_bytes: int = 5_000_000_000,
    output_format: str = SAFETENSORS,
    progress: ProgressCallback = ignore,
) -> Path:
    """Writes the model that `coefficients` describes into the new folder `output`, with the side files.

    Args:
        coefficients: the file `coefficients.json`, or the result's folder.
        candidate: a method of the report other than the winner.
        base: where the checkpoints' base is, if it has a weight and is not one of the folder's checkpoints.
        output_format: `safetensors` or `dcp`, as in `average`.

    Raises:
        ValueError: `output_format` is another one.
        CheckpointError: the folder lacks one of the checkpoints, or one has changed since.
        EngineError: (inputs-changed) a file was changed meanwhile.
        MethodError: there is no such candidate.
        OutputError: `output` exists, or the disk is full.
    """
    refuse_output_format(output_format)
    recipe, expected, rule = load_recipe(coefficients, ckpt_dir, candidate, base)
    refuse_other_format(recipe.checkpoints, output_format)
    with open_all(recipe.checkpoints) as readers, staged(Path(output)) as staging:
        fetch_weights(readers)
        inputs, hashed = inputs_of(recipe.checkpoints, readers), HashedReaders(readers)
        with inputs.blamed():
            written = as_written(recipe, hashed.readers, rule)
            digests = write_model(
                staging,
                written.recipe,
                max_shard_bytes=max_shard_bytes,
                metadata={},
                on_event=progress,
                readers=hashed.readers,
                output_format=output_format,
            )
            _refuse_others(hashed.digests(), expected)
            verify_model(staging, written.recipe, digests, progress)
            copy_side_files(recipe.checkpoints, staging, inputs)
            written.write_config(staging)
        inputs.refuse_changed()
    return Path(output)


@with_far_folders
def candidate_state(
    coefficients: PathLike, ckpt_dir: CkptDir, candidate: str | None = None, base: PathLike | None = None
) -> dict[str, Tensor]:
    """The same as a state dict in memory, for a notebook."""
    recipe, expected, rule = load_recipe(coefficients, ckpt_dir, candidate, base)
    with open_all(recipe.checkpoints) as readers:
        fetch_weights(readers)
        stored, hashed = written_names(recipe.checkpoints), HashedReaders(readers)
        written = as_written(recipe, hashed.readers, rule).recipe
        state = {stored[name]: written.tensor(name, hashed.readers) for name in written.output_dtypes}
        _refuse_others(hashed.digests(), expected)
    return state


def load_recipe(
    coefficients: PathLike, ckpt_dir: CkptDir, candidate: str | None = None, base: PathLike | None = None
) -> tuple[Recipe, dict[Path, str], AdapterOutput | None]:
    """Reads `coefficients.json` and the statistics beside it, and finds the checkpoints that it names.

    With the recipe come the digests that the weight files must have, and how adapters are written.
    """
    path = _coefficients_file(Path(coefficients))
    saved = parse_coefficients(path, _read(path), candidate)
    found = discover(
        ckpt_dir,
        names=saved.coefficients.own_names,
        use_ema=saved.use_ema,
        take_from=saved.taken_from,
    )
    if saved.coefficients.base:
        name = saved.coefficients.checkpoints[0]
        found = joined(found, replace(find_base(found.folder, name if base is None else base), name=name)).with_base
    checkpoints = in_space(found, saved.adapters.get("space", DELTA))
    saved.refuse_other_tensors(path, checkpoints)
    recipe = Recipe(
        checkpoints=checkpoints,
        coefficients=saved.coefficients,
        output_dtypes=saved.output_dtypes,
        statistics=_statistics(path, saved, checkpoints),
    )
    expected = {
        file: saved.sha256[checkpoint.name].get(file.name, "")
        for checkpoint in checkpoints.checkpoints
        for file in checkpoint.files
    }
    rule = saved.adapters
    return recipe, expected, adapter_output(checkpoints, rule.get("rank"), rule.get("error"), rule.get("dtype", "keep"))


def _coefficients_file(path: Path) -> Path:
    """The file itself, or the one in a result's folder."""
    return path / COEFFICIENTS_FILE if path.is_dir() else path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            "unreadable-input",
            f"`coefficients` must be a file {COEFFICIENTS_FILE}, but `{path}` cannot be read: {error.strerror}.",
        ) from error


def _statistics(path: Path, saved: SavedCoefficients, checkpoints: CheckpointSet) -> dict[str, Tensor]:
    if not saved.statistics:
        return {}
    stored = read_all(path.parent / STATISTICS_FILE)
    found = {name: stored.get(f"{saved.name}/{name}") for name in saved.statistics}
    for name, tensor in found.items():
        if tensor is None or name not in checkpoints.tensors or tensor.shape != checkpoints.tensors[name].shape:
            raise CheckpointError(
                "corrupt-checkpoint",
                f"The file `{path.parent / STATISTICS_FILE}` must hold `{saved.name}/{name}` in the shape that the "
                f"checkpoints have it in, but does not.",
            )
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _refuse_others(found: Mapping[Path, str], expected: Mapping[Path, str]) -> None:
    for file, digest in found.items():
        if digest != expected[file]:
            raise CheckpointError(
                "mismatched-checkpoints",
                f"Every checkpoint must be the one that the coefficients were made for, but `{file}` has changed "
                f"since: its SHA-256 differs.",
            )
