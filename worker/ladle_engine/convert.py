"""Checkpoints of any layout that Ladle reads, written again as safetensors with their side files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ladle_engine.checkpoints.discover import discover
from ladle_engine.checkpoints.far_parts import fetch_weights
from ladle_engine.checkpoints.files import Candidate
from ladle_engine.checkpoints.filters import Filters
from ladle_engine.checkpoints.folder_scan import find, scan
from ladle_engine.checkpoints.inputs import inputs_of
from ladle_engine.checkpoints.name_parts import SUFFIXES
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.sources import sources_of
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import CheckpointError
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model
from ladle_engine.output.recipe import OUTPUT_DTYPES, Recipe, output_dtypes
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.request import refuse_number
from ladle_engine.progress import Pace, ProgressCallback, ignore
from ladle_engine.storage.atomic_folder import staged, sync_folder
from ladle_engine.storage.far.door import with_far_folders
from ladle_engine.storage.input_paths import is_file, is_folder
from ladle_engine.versions import installed_version


@with_far_folders
def convert_checkpoints(  # noqa: PLR0913  # one argument per option, as in `average`
    source: PathLike,
    output: PathLike,
    *,
    pattern: str | None = None,
    exclude: str | Sequence[str] | None = None,
    component: str | None = None,
    use_ema: bool = False,
    dtype: str = "keep",
    max_shard_bytes: int = 5_000_000_000,
    progress: ProgressCallback = ignore,
) -> tuple[Path, ...]:
    """Writes each checkpoint of `source` as safetensors, with config and tokenizer, and returns the folders.

    A single checkpoint becomes the folder `output`; several become folders in it, under their own names without a
    file's suffix. All appear at once, or nothing. Reads block by block, and verifies what was written.

    Args:
        source: a checkpoint, which is a file or a folder; or a folder of checkpoints.
        pattern: a glob on the checkpoints' names.
        exclude: a glob, or several, of checkpoints to leave out.
        component: of checkpoints that are made of several models, such as diffusers' pipelines, the name of one.
        use_ema: take of each file the average that was made while training (EMA, SWA), in place of the model.
        dtype: `keep`, `float32`, `bfloat16` or `float16`; integers and complex numbers keep theirs.

    Raises:
        ValueError: `dtype` or `max_shard_bytes` breaks its rule.
        CheckpointError: there is no checkpoint, or one cannot be read, is not finite or does not fit `dtype`.
        OutputError: `output` exists, or the disk is full.
    """
    if dtype not in OUTPUT_DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(OUTPUT_DTYPES)}, but is {dtype!r}.")
    refuse_number("max_shard_bytes", max_shard_bytes, 1)
    filters = Filters(pattern=pattern, exclude=exclude)
    folder, names = _checkpoints_of(Path(source), filters, component)
    # All are opened before anything is written.
    found = [discover(folder, names=[name], use_ema=use_ema) for name in names]
    places = [Path()] if len(names) == 1 else _places(names)
    pace = Pace(progress, "convert", len(names))
    with torch.no_grad(), staged(Path(output)) as staging:
        for done, (checkpoint, place) in enumerate(zip(found, places, strict=True), start=1):
            target = staging / place
            target.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, target, dtype, max_shard_bytes)
            sync_folder(target)
            pace.step(done)
    return tuple(Path(output) / place for place in places)


def _checkpoints_of(source: Path, filters: Filters, component: str | None) -> tuple[Path, list[str]]:
    """A folder, and the names of the checkpoints in it."""
    if is_file(source):
        return source.parent, [source.name]
    if not is_folder(source):
        raise CheckpointError("no-checkpoints", f"`source=` must be a checkpoint or a folder, but `{source}` is none.")
    candidates, passed_over = scan(sources_of(source), component)
    names = [each.checkpoint.name for each in candidates if filters.wants(each.checkpoint.name)]
    if names:
        return source, names
    whole = Path(source).absolute()
    with suppress(OSError):
        if not candidates and isinstance(find(whole.name, whole.parent, component), Candidate):
            return whole.parent, [whole.name]
    reasons = "; ".join(f"`{each.name}` is {each.reason}" for each in passed_over[:5])
    raise CheckpointError(
        "no-checkpoints",
        f"`source=` must hold a checkpoint, but `{source}` holds none"
        + (f" that `pattern=` and `exclude=` leave: it has {len(candidates)}." if candidates else ".")
        + (f" Passed over: {reasons}." if reasons else ""),
    )


def _places(names: Sequence[str]) -> list[Path]:
    """`epoch-3.pt` -> `epoch-3`, unless another has that name too, or would lie in it."""
    short = [SUFFIXES.sub("", name) or name for name in names]
    taken = Counter(short)
    inner = {parent.as_posix() for name in short for parent in Path(name).parents}
    return [
        Path(each if taken[each] == 1 and each not in inner else f"{name}.converted" if name in inner else name)
        for name, each in zip(names, short, strict=True)
    ]


def _write(checkpoints: CheckpointSet, folder: Path, dtype: str, max_shard_bytes: int) -> None:
    """One checkpoint, in a folder of its own."""
    with open_all(checkpoints) as readers:
        fetch_weights(readers)
        inputs = inputs_of(checkpoints, readers)
        with inputs.blamed():
            averaged = [name for name, info in checkpoints.tensors.items() if info.is_averaged]
            recipe = Recipe(
                checkpoints=checkpoints,
                coefficients=Coefficients.whole_model(checkpoints.names, averaged, [1.0]),
                output_dtypes=output_dtypes(checkpoints, dtype),
                statistics={},
            )
            metadata = {"format": "pt", "ladle_version": installed_version("ladle")}
            digests = write_model(folder, recipe, max_shard_bytes=max_shard_bytes, metadata=metadata, on_event=ignore)
            verify_model(folder, recipe, digests, ignore)
            copy_side_files(checkpoints, folder, inputs)
        inputs.refuse_changed()
