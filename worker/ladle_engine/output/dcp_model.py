"""A model as a DCP checkpoint that the reference's tool goes on from: its names, and all else that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ladle_engine.checkpoints.chunks import same_tensors
from ladle_engine.checkpoints.dcp.rest import Rest, open_rest
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo, TensorReader
from ladle_engine.output.dcp_writer import write_dcp
from ladle_engine.output.folder import refuse_full_disk
from ladle_engine.output.recipe import Recipe
from ladle_engine.progress import ProgressCallback, Warned

NO_REST = (
    "The result has the weights alone, and no state of an optimiser: that of the last checkpoint holds copies of its "
    "own weights, which would replace those of the result when training goes on."
)


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
    return {(inner / name).as_posix(): digest for name, digest in digests.items()}


def _inner_folder(checkpoints: CheckpointSet) -> Path:
    """Of the reference's files within its own folder, such as `pytorch_model_fsdp_0`."""
    reference = checkpoints.reference
    if reference.format != "dcp":
        return Path()
    return reference.files[0].parent.relative_to(reference.home_in(checkpoints.folder))


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
