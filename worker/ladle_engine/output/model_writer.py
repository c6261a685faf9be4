"""Coefficients -> safetensors or DCP, block by block.

The model is always `sum_i alpha_i w_i`, recomputed from the original files and accumulated in float64. Memory is a few
blocks, whatever K, the model's size and its largest tensor are. While one block is summed, the next ones are read and
the last ones hashed and written.

K checkpoints, C elements of one chunk.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import Tensor

from ladle_engine.checkpoints.readers import FORMATS, open_all, open_checkpoint
from ladle_engine.checkpoints.side_files import side_name
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo, TensorReader
from ladle_engine.errors import OutputError
from ladle_engine.output.dcp_model import write_dcp_model
from ladle_engine.output.digests import digests_of, sha256_on_disk
from ladle_engine.output.folder import DCP, SAFETENSORS, refuse_full_disk
from ladle_engine.output.recipe import Recipe
from ladle_engine.output.safetensors_writer import SafetensorsWriter
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.storage.hashed_file import load_whole
from ladle_engine.storage.input_file import COUNTS, InputFile
from ladle_engine.storage.inputs import Inputs
from ladle_engine.storage.read_ahead import read_ahead

MODEL = "model"
ADAPTER = "adapter_model"
OF_DIFFUSERS = "diffusion_pytorch_model"
"""What a model's files are called, without the suffix: each library looks for its own name."""


def write_model(
    folder: Path,
    recipe: Recipe,
    *,
    max_shard_bytes: int,
    metadata: Mapping[str, str],
    on_event: ProgressCallback,
    readers: Sequence[TensorReader] | None = None,
    output_format: str = SAFETENSORS,
) -> dict[str, str]:
    """Writes the model's files and returns each one's SHA-256.

    They are `model.safetensors` (for diffusers and PEFT the name that they look for), or shards with an index, or those
    of a DCP checkpoint.

    `readers` are the checkpoints', for whoever watches what is read. Raises `OutputError` (disk-full) before the first
    byte when the disk has not enough room.
    """
    stored = written_names(recipe.checkpoints)
    with open_all(recipe.checkpoints) as opened, _blocks(recipe, readers or opened, opened, on_event) as blocks:
        if output_format == DCP:
            return write_dcp_model(
                folder, recipe, stored, blocks, opened[-1], max_file_bytes=max_shard_bytes, on_event=on_event
            )
        return _write_safetensors(folder, recipe, stored, blocks, max_shard_bytes, metadata)


def _write_safetensors(
    folder: Path,
    recipe: Recipe,
    stored: Mapping[str, str],
    blocks: Callable[[], Iterator[Tensor]],
    max_shard_bytes: int,
    metadata: Mapping[str, str],
) -> dict[str, str]:
    base = _base_name(recipe.checkpoints)
    # PEFT reads one file.
    shards = _shards(recipe, sys.maxsize if base == ADAPTER else max_shard_bytes)
    refuse_full_disk(folder, sum(map(recipe.num_bytes, recipe.output_dtypes)))
    names = (
        [f"{base}.safetensors"]
        if len(shards) == 1
        else [f"{base}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    )
    digests: dict[str, str] = {}
    for file_name, tensor_names in zip(names, shards, strict=True):
        infos = {
            stored[name]: (recipe.output_dtypes[name], recipe.checkpoints.tensors[name].shape) for name in tensor_names
        }
        with SafetensorsWriter(folder / file_name, infos, metadata) as writer:
            for _ in tensor_names:
                writer.add(blocks())
        digests[file_name] = writer.digest()
    if len(shards) > 1:
        weight_map = {stored[name]: file for file, tensors in zip(names, shards, strict=True) for name in tensors}
        total = sum(map(recipe.num_bytes, recipe.output_dtypes))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = (json.dumps(index, indent=2) + "\n").encode()
        index_file = f"{base}.safetensors.index.json"
        (folder / index_file).write_bytes(text)
        digests[index_file] = hashlib.sha256(text).hexdigest()
    return digests


def _base_name(checkpoints: CheckpointSet) -> str:
    if checkpoints.adapters is not None:
        return ADAPTER
    return OF_DIFFUSERS if checkpoints.reference.files[0].name.startswith(OF_DIFFUSERS) else MODEL


@contextmanager
def _blocks(
    recipe: Recipe, readers: Sequence[TensorReader], others: Sequence[TensorReader], on_event: ProgressCallback
) -> Iterator[Callable[[], Iterator[Tensor]]]:
    """What gives the blocks of the output tensors, one tensor after the other. The next ones are read meanwhile.

    `others` are readers of the same checkpoints that may be used at the same time.
    """
    pace = Pace(on_event, "write", len(recipe.output_dtypes), unit="bytes")
    names = iter(enumerate(recipe.output_dtypes, start=1))

    def read() -> Iterator[tuple[int, list[Tensor]] | None]:
        for name in recipe.output_dtypes:
            yield from recipe.sources(name, readers)
            # The end of a tensor: one without any numbers has no block.
            yield None

    with read_ahead(read()) as ready:
        written_bytes = 0

        def blocks() -> Iterator[Tensor]:
            nonlocal written_bytes
            number, name = next(names)
            while (made_of := next(ready)) is not None:
                yield recipe.block(name, *made_of, others)
            written_bytes += recipe.num_bytes(name)
            pace.step(number, amount=written_bytes)

        yield blocks


def verify_model(folder: Path, recipe: Recipe, digests: Mapping[str, str], on_event: ProgressCallback) -> None:
    """Reads back what was written: every byte against its digest, and every name, shape and type against the recipe.

    Raises `OutputError` when the disk did not keep what it was given.
    """
    pace = Pace(on_event, "verify", len(digests))
    on_disk = digests_of([folder / file_name for file_name in digests], sha256_on_disk)
    for done, ((path, digest), expected_digest) in enumerate(zip(on_disk, digests.values(), strict=True)):
        if digest != expected_digest:
            raise OutputError(
                "crashed", f"`{path}` must read back as it was written, but does not. Is the disk broken?"
            )
        pace.step(done + 1)
    stored = written_names(recipe.checkpoints)
    expected = {
        stored[name]: TensorInfo(shape=recipe.checkpoints.tensors[name].shape, dtype=dtype)
        for name, dtype in recipe.output_dtypes.items()
    }
    assert _written(folder, digests) == expected, "the headers must describe what the recipe says"


def _written(folder: Path, names: Iterable[str]) -> dict[str, TensorInfo]:
    """What the files of a result say that they hold."""
    paths = [folder / name for name in names if not name.endswith(".json")]
    form = "safetensors" if paths[0].suffix == ".safetensors" else "dcp"
    with ExitStack() as stack:
        files = [stack.enter_context(InputFile(path, is_ours=True)) for path in paths]
        return {name: place.info for each in FORMATS[form](files) for name, place in each.tensors.items()}


def written_names(checkpoints: CheckpointSet) -> Mapping[str, str]:
    """Name -> name in the output, which is the one in the reference's file: wrappers' prefixes are put back."""
    with open_checkpoint(checkpoints.reference) as reader:
        stored = reader.stored_names()
    # What is taken from another checkpoint, and the reference lacks, gets the prefix that all others have.
    prefixes = {stored[name].removesuffix(name) for name in checkpoints.tensors if name in stored}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    return {**stored, **{name: prefix + name for name in checkpoints.tensors if name not in stored}}


def copy_side_files(checkpoints: CheckpointSet, folder: Path, inputs: Inputs) -> None:
    """Config, tokenizer and the like, beside the model.

    Raises `EngineError` (inputs-changed) where one is not what `inputs` know.
    """
    for side_file in checkpoints.side_files:
        with InputFile(side_file) as file:
            content, loaded = load_whole(file)
        inputs.know({side_file: loaded.sha256})
        target = folder / side_name(side_file, checkpoints.places)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
        COUNTS.wrote(len(content))


def _shards(recipe: Recipe, max_shard_bytes: int) -> list[list[str]]:
    """Names in order, cut before a shard would grow past the limit; one tensor is never cut."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in recipe.output_dtypes:
        tensor_bytes = recipe.num_bytes(name)
        if shards[-1] and size + tensor_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor_bytes
    return shards
