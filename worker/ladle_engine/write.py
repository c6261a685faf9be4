"""Coefficients -> safetensors, tensor by tensor.

The model is always `sum_i alpha_i w_i`, recomputed from the original files and accumulated in float64. Memory is one
output tensor and a few chunks, whatever K and the model's size are.

K checkpoints, C elements of one chunk.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.binding import Binding
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.safetensors_file import DTYPE_NAMES, read_header
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo, TensorReader
from ladle_engine.coefficients import Coefficients
from ladle_engine.commit import sync_file
from ladle_engine.errors import OutputError
from ladle_engine.progress import Pace, ProgressCallback

CHUNK_ELEMENTS = 1 << 20
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

OUTPUT_DTYPES: dict[str, torch.dtype | None] = {
    "keep": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the bytes of a model's tensors."""

    checkpoints: CheckpointSet
    coefficients: Coefficients
    output_dtypes: Mapping[str, torch.dtype]
    """Name -> type, for every tensor that is written, in order. Aliases of tied tensors are not here."""
    statistics: Mapping[str, Tensor]
    """Buffers that were made for this mixture and are not the checkpoints' sum."""

    def tensor(self, name: str, readers: Sequence[TensorReader]) -> Tensor:
        """The output tensor `name`, contiguous, on the CPU."""
        dtype = self.output_dtypes[name]
        single = self.coefficients.single()
        if name in self.statistics:
            return self.statistics[name].to(dtype).contiguous()
        if single is not None:
            return readers[single].read(name).to(dtype).contiguous()
        if name not in self.coefficients.group_of:
            # Integer and boolean tensors are counters and masks: the reference's, never averaged.
            return readers[-1].read(name).to(dtype).contiguous()
        return combine([reader.read(name) for reader in readers], self.coefficients.of(name), dtype)


def output_dtypes(binding: Binding, checkpoints: CheckpointSet, choice: str) -> dict[str, torch.dtype]:
    """The type of every tensor that is written. `choice` is a key of `OUTPUT_DTYPES`; it leaves integers alone."""
    chosen = OUTPUT_DTYPES[choice]
    return {
        name: chosen if chosen is not None and info.is_floating else info.dtype
        for name, info in checkpoints.tensors.items()
        if name not in binding.aliases
    }


def combine(weights: Sequence[Tensor], alpha_K: Tensor, dtype: torch.dtype) -> Tensor:
    """`sum_i alpha_i w_i`, accumulated in float64 in the order of the checkpoints and rounded once.

    A tensor that is the same everywhere comes out bit for bit: the weights sum to 1 only up to rounding.
    """
    if all(_same(weights[0], other) for other in weights[1:]):
        return weights[0].to(dtype).contiguous()
    flat = [tensor.reshape(-1) for tensor in weights]
    combined = torch.empty(flat[0].shape, dtype=dtype)
    used = [(tensor, float(alpha)) for tensor, alpha in zip(flat, alpha_K.tolist(), strict=True) if alpha != 0.0]
    equal = len({alpha for _, alpha in used}) == 1
    for start in range(0, len(combined), CHUNK_ELEMENTS):
        elements = slice(start, start + CHUNK_ELEMENTS)
        sum_C = torch.zeros(len(combined[elements]), dtype=torch.float64)
        for tensor, alpha in used:
            # Equal weights are a mean: one division at the end is the arithmetic mean exactly, K products are not.
            sum_C.add_(tensor[elements].to(torch.float64), alpha=1.0 if equal else alpha)
        if equal:
            sum_C.div_(len(used))
        combined[elements] = sum_C.to(dtype)
    return combined.view(weights[0].shape)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype:
        return False
    return bool(torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)))


def write_model(
    folder: Path, recipe: Recipe, *, max_shard_bytes: int, metadata: Mapping[str, str], tell: ProgressCallback
) -> dict[str, str]:
    """Writes `model.safetensors`, or shards with an index, and returns each file's SHA-256.

    Raises `OutputError` (disk-full) before the first byte when the disk has not enough room.
    """
    shards = _shards(recipe, max_shard_bytes)
    _refuse_full_disk(folder, sum(_bytes_of(recipe, name) for name in recipe.output_dtypes))
    pace = Pace(tell, "write", len(recipe.output_dtypes))
    names = (
        [SINGLE_FILE]
        if len(shards) == 1
        else [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    )
    done = 0
    digests: dict[str, str] = {}
    with open_all(recipe.checkpoints) as readers:
        for file_name, tensor_names in zip(names, shards, strict=True):
            infos = {
                name: (recipe.output_dtypes[name], recipe.checkpoints.tensors[name].shape) for name in tensor_names
            }
            with SafetensorsWriter(folder / file_name, infos, metadata) as writer:
                for name in tensor_names:
                    writer.add(recipe.tensor(name, readers))
                    done += 1
                    pace.step(done)
            digests[file_name] = writer.digest()
    if len(shards) > 1:
        weight_map = {name: file for file, tensors in zip(names, shards, strict=True) for name in tensors}
        total = sum(_bytes_of(recipe, name) for name in recipe.output_dtypes)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = (json.dumps(index, indent=2) + "\n").encode()
        (folder / INDEX_FILE).write_bytes(text)
        digests[INDEX_FILE] = hashlib.sha256(text).hexdigest()
    return digests


class SafetensorsWriter:
    """Writes one file tensor after tensor; the library's own `save_file` wants all of them in memory at once.

    The format: 8 bytes of header length, little-endian, the JSON header padded to 8 bytes, then the data.
    """

    def __init__(
        self, path: Path, infos: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
    ) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
        position = 0
        for name, (dtype, shape) in infos.items():
            end = position + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._path = path
        self._file = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._due = iter(infos.items())
        self._write(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
        if exc_info[0] is None:
            assert next(self._due, None) is None, "every announced tensor must have been added"
            sync_file(self._path)

    def add(self, tensor: Tensor) -> None:
        """The next tensor, in the order in which they were announced."""
        name, (dtype, shape) = next(self._due)
        assert tensor.dtype == dtype, name
        assert tuple(tensor.shape) == shape, name
        if tensor.numel():
            self._write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return self._sha256.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._file.write(data)


def verify_model(folder: Path, recipe: Recipe, digests: Mapping[str, str], tell: ProgressCallback) -> None:
    """Reads back what was written: every byte against its digest, and every name, shape and type against the recipe.

    Raises `OutputError` when the disk did not keep what it was given.
    """
    pace = Pace(tell, "verify", len(digests))
    found: dict[str, TensorInfo] = {}
    for done, (file_name, digest) in enumerate(digests.items()):
        path = folder / file_name
        if sha256_of(path) != digest:
            raise OutputError(
                "crashed", f"`{path}` must read back as it was written, but does not. Is the disk broken?"
            )
        if path.suffix == ".safetensors":
            found |= read_header(path).tensors
        pace.step(done + 1)
    expected = {
        name: TensorInfo(shape=recipe.checkpoints.tensors[name].shape, dtype=dtype)
        for name, dtype in recipe.output_dtypes.items()
    }
    assert found == expected, "the header must describe what the recipe says"


def copy_side_files(checkpoints: CheckpointSet, folder: Path) -> None:
    """Config, tokenizer and the like, beside the model."""
    for side_file in checkpoints.side_files:
        shutil.copyfile(side_file, folder / side_file.name)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(recipe: Recipe, max_shard_bytes: int) -> list[list[str]]:
    """Names in order, cut before a shard would grow past the limit; one tensor is never cut."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in recipe.output_dtypes:
        tensor_bytes = _bytes_of(recipe, name)
        if shards[-1] and size + tensor_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor_bytes
    return shards


def _bytes_of(recipe: Recipe, name: str) -> int:
    return math.prod(recipe.checkpoints.tensors[name].shape) * recipe.output_dtypes[name].itemsize


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            "disk-full", f"`output` must have {needed:,} bytes of free disk, but `{folder.parent}` has {free:,}."
        )
