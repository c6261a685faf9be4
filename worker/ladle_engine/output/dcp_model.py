"""A model as a DCP checkpoint that the reference's tool goes on from: its names, and all else that it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ladle_engine.checkpoints.chunks import same_tensors
from ladle_engine.checkpoints.dcp.rest import Rest, open_rest
from ladle_engine.checkpoints.files import leads_out
from ladle_engine.checkpoints.pickles.plain import pickled_value
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo, TensorReader
from ladle_engine.errors import CheckpointError
from ladle_engine.output.dcp_writer import write_dcp
from ladle_engine.output.folder import refuse_full_disk
from ladle_engine.output.recipe import Recipe
from ladle_engine.progress import ProgressCallback, Warned
from ladle_engine.storage.atomic_folder import sync_file
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.input_paths import is_file

NO_REST = (
    "The result has the weights alone, and no state of an optimiser: that of the last checkpoint holds copies of its "
    "own weights, which would replace those of the result when training goes on."
)


COMMON = "common.pt"
"""Of Megatron's `torch_dist`: arguments, counters and the like. It loads no checkpoint without this file."""
MOST_COMMON_BYTES = 256 << 20


def write_dcp_model(
    folder: Path,
    recipe: Recipe,
    stored: Mapping[str, str],
    blocks: Callable[[], Iterator[Tensor]],
    reference: TensorReader,
    *,
    max_file_bytes: int,
    on_event: ProgressCallback,
) -> dict[str, str]:
    """Writes into the sub-folder in which the reference has them, and returns each file's SHA-256.

    `stored` are the names to write. Raises `OutputError` (disk-full) as `write_model`.
    """
    inner = _inner_folder(recipe.checkpoints)
    place = folder / inner
    place.mkdir(exist_ok=True)
    tensors = {
        stored[name]: TensorInfo(shape=recipe.checkpoints.tensors[name].shape, dtype=dtype)
        for name, dtype in recipe.output_dtypes.items()
    }
    tied = {stored[name]: stored[other] for name, other in _tied(recipe, reference).items()}
    with open_rest(recipe.checkpoints.reference) as rest:
        if rest.has_master_weights:
            on_event(Warned(message=NO_REST))
            rest = Rest(names=rest.names, paths=rest.paths)
        needed = sum(map(recipe.num_bytes, recipe.output_dtypes)) + rest.num_bytes
        refuse_full_disk(folder, needed)
        digests = write_dcp(place, tensors, blocks, rest, tied=tied, max_file_bytes=max_file_bytes)
    digests |= _copy_common(recipe.checkpoints, place, on_event)
    return {(inner / name).as_posix(): digest for name, digest in digests.items()}


def _inner_folder(checkpoints: CheckpointSet) -> Path:
    """Of the reference's files within its own folder, such as `pytorch_model_fsdp_0`."""
    reference = checkpoints.reference
    if reference.format != "dcp":
        return Path()
    return reference.files[0].parent.relative_to(reference.home_in(checkpoints.folder))


def _copy_common(checkpoints: CheckpointSet, place: Path, on_event: ProgressCallback) -> dict[str, str]:
    """Copies the reference's `common.pt` byte for byte, where it has one. Returns its SHA-256 by its name."""
    path = checkpoints.reference.files[0].parent / COMMON
    if checkpoints.reference.format != "dcp" or leads_out(path, checkpoints.folder) or not is_file(path):
        return {}
    try:
        with InputFile(path) as file:
            if file.size > MOST_COMMON_BYTES:
                raise corrupt(path, f"must have at most {MOST_COMMON_BYTES:,} bytes, but has {file.size:,}")
            # Who loads the result runs it, so one that would run programs is not handed on.
            pickled_value(file)
            content = file.read(0, file.size)
    except CheckpointError as error:
        on_event(
            Warned(message=f"The result has no `{COMMON}`, without which Megatron does not load it. {error.message}")
        )
        return {}
    (place / COMMON).write_bytes(content)
    sync_file(place / COMMON)
    return {COMMON: hashlib.sha256(content).hexdigest()}


def _tied(recipe: Recipe, reference: TensorReader) -> dict[str, str]:
    """Names that the recipe leaves to the tensor that they are, which holds the same numbers in the reference."""
    infos = recipe.checkpoints.tensors
    found: dict[str, str] = {}
    for name in infos.keys() - recipe.output_dtypes.keys():
        alike = (other for other in recipe.output_dtypes if infos[other] == infos[name])
        same = next((other for other in alike if same_tensors((reference, other), (reference, name))), None)
        if same is not None:
            found[name] = same
    return found
