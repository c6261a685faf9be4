"""Coefficients -> safetensors, block by block.

The model is always `sum_i alpha_i w_i`, recomputed from the original files and accumulated in float64. Memory is a few
blocks, whatever K, the model's size and its largest tensor are. While one block is summed, the next ones are read and
the last ones hashed and written.

K checkpoints, C elements of one chunk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ladle_engine.checkpoints.check import has_finite_sum, refuse_non_finite
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.safetensors_file import DTYPE_NAMES, read_header
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo, TensorReader
from ladle_engine.coefficients import Coefficients, RandomPart
from ladle_engine.errors import OutputError
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.storage.atomic_folder import sync_file
from ladle_engine.storage.read_ahead import ReadAhead, read_ahead

BLOCK_ELEMENTS = 1 << 20
"""How many elements of a tensor are written at once."""

CHUNK_ELEMENTS = 1 << 15
"""How many are summed at once: they stay in the cache, and torch starts no parallel region for so few. Where another
process holds one of two cores, threads that wait for each other cost 65 ns an element instead of 1."""

MAX_WAITING_BLOCKS = 4
"""How many blocks may wait to be written."""

SEND_BYTES = 32 << 20
"""How many are written before they are sent on to the disk: the sync at the end finds little left to do."""

SUM_TOLERANCE = 1e-6
"""Weights whose sum is this close to 1 make an average."""

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
        """The output tensor `name`, in memory of its own, on the CPU."""
        start = torch.empty(0, dtype=self.output_dtypes[name])
        return torch.cat([start, *self.blocks(name, readers)]).view(self.checkpoints.tensors[name].shape)

    def blocks(self, name: str, readers: Sequence[TensorReader]) -> Iterator[Tensor]:
        """The flat output tensor `name` in parts of at most `BLOCK_ELEMENTS`, which may be memory-mapped.

        Raises `CheckpointError` (non-finite-weights) that names the checkpoint.
        """
        dtype = self.output_dtypes[name]
        checked = not dtype.is_floating_point
        for block in self._blocks(name, readers, dtype):
            if not checked and not has_finite_sum(block):
                self._refuse_non_finite(name, readers)
                checked = True
            yield block

    def _blocks(self, name: str, readers: Sequence[TensorReader], dtype: torch.dtype) -> Iterator[Tensor]:
        if name in self.statistics or self._copied_from(name) is not None:
            (tensor,) = self.sources(name, readers)
            return _parts(tensor, dtype)
        weights, alpha_K = [reader.read(name) for reader in readers], self.coefficients.of(name)
        random, group = self.coefficients.random, self.coefficients.group_of[name]
        if random is None:
            return combine(weights, alpha_K, dtype)
        return _with_random(combine(weights, alpha_K, torch.float64), random, name, group, dtype)

    def _copied_from(self, name: str) -> int | None:
        """The checkpoint whose tensor is taken as it is; None for a sum."""
        single = self.coefficients.single()
        if single is None and name not in self.coefficients.group_of:
            # Integer and boolean tensors are counters and masks: the reference's, never averaged.
            return len(self.checkpoints.checkpoints) - 1
        return single

    def sources(self, name: str, readers: Sequence[TensorReader]) -> list[Tensor]:
        """What the output tensor `name` is made from, which may be memory-mapped."""
        if name in self.statistics:
            return [self.statistics[name]]
        if (single := self._copied_from(name)) is not None:
            return [readers[single].read(name)]
        alpha_K = self.coefficients.of(name).tolist()
        return [reader.read(name) for reader, alpha in zip(readers, alpha_K, strict=True) if alpha != 0.0]

    def _refuse_non_finite(self, name: str, readers: Sequence[TensorReader]) -> None:
        """Returns when all are finite: then only the sum is not, or not in the output's type."""
        for checkpoint, reader in zip(self.checkpoints.checkpoints, readers, strict=True):
            refuse_non_finite(checkpoint, name, reader.read(name))


def output_dtypes(checkpoints: CheckpointSet, choice: str, aliases: Collection[str] = ()) -> dict[str, torch.dtype]:
    """The type of every tensor that is written, which is all but `aliases`.

    `choice` is a key of `OUTPUT_DTYPES`; it leaves integers alone.
    """
    chosen = OUTPUT_DTYPES[choice]
    return {
        name: chosen if chosen is not None and info.is_floating else info.dtype
        for name, info in checkpoints.tensors.items()
        if name not in aliases
    }


def combine(weights: Sequence[Tensor], alpha_K: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """`sum_i alpha_i w_i`, flat, in blocks; accumulated in float64 in the order of the checkpoints and rounded once.

    A tensor that is the same everywhere comes out bit for bit: the weights sum to 1 only up to rounding.
    """
    averages = abs(float(alpha_K.sum()) - 1.0) <= SUM_TOLERANCE
    if averages and all(_same(weights[0], other) for other in weights[1:]):
        yield from _parts(weights[0], dtype)
        return
    used = [
        (tensor.reshape(-1), float(alpha))
        for tensor, alpha in zip(weights, alpha_K.tolist(), strict=True)
        if alpha != 0.0
    ]
    is_mean = averages and len({alpha for _, alpha in used}) == 1
    scratch_2C = torch.empty(2, CHUNK_ELEMENTS, dtype=torch.float64)
    for start in range(0, weights[0].numel(), BLOCK_ELEMENTS):
        block = torch.empty(min(BLOCK_ELEMENTS, weights[0].numel() - start), dtype=dtype)
        position = start
        for part_C in block.split(CHUNK_ELEMENTS):
            sum_C, wide_C = scratch_2C[:, : len(part_C)]
            sum_C.zero_()
            for tensor, alpha in used:
                wide_C.copy_(tensor[position : position + len(part_C)])
                # Equal weights are a mean: one division at the end is the arithmetic mean exactly, K products are not.
                sum_C.add_(wide_C, alpha=1.0 if is_mean else alpha)
            if is_mean:
                sum_C.div_(len(used))
            part_C.copy_(sum_C)
            position += len(part_C)
        yield block


def _with_random(
    blocks: Iterator[Tensor], random: RandomPart, name: str, group: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Adds a tensor's random directions to its blocks, in float64, and rounds once."""
    start = 0
    for block in blocks:
        random.add_to(block, name, start, group)
        start += len(block)
        yield block.to(dtype)


def _parts(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), BLOCK_ELEMENTS):
        yield flat[start : start + BLOCK_ELEMENTS].to(dtype)


def _same(one: Tensor, other: Tensor) -> bool:
    # The comparison ends at the first difference: tensors that were trained cost a page each.
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
    with open_all(recipe.checkpoints) as readers, _read_ahead(recipe, readers) as ahead:
        for file_name, tensor_names in zip(names, shards, strict=True):
            infos = {
                name: (recipe.output_dtypes[name], recipe.checkpoints.tensors[name].shape) for name in tensor_names
            }
            with SafetensorsWriter(folder / file_name, infos, metadata) as writer:
                for name in tensor_names:
                    writer.add(ahead.follow(recipe.blocks(name, readers)))
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


def _read_ahead(recipe: Recipe, readers: Sequence[TensorReader]) -> AbstractContextManager[ReadAhead]:
    widest = max(info.dtype.itemsize for info in recipe.checkpoints.tensors.values())
    return read_ahead(
        (recipe.sources(name, readers) for name in recipe.output_dtypes),
        BLOCK_ELEMENTS,
        block_bytes=BLOCK_ELEMENTS * widest * len(readers),
    )


class SafetensorsWriter:
    """Writes one file block after block; the library's own `save_file` wants all tensors in memory at once.

    A thread of its own hashes and writes, for neither holds Python's lock. The format: 8 bytes of header length,
    little-endian, the JSON header padded to 8 bytes, then the data.
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
        self._sent = 0
        self._due = iter(infos.items())
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()
        self._submit(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            while self._waiting and exc_info[0] is None:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._file.close()
        if exc_info[0] is None:
            assert next(self._due, None) is None, "every announced tensor must have been added"
            sync_file(self._path)

    def add(self, blocks: Iterable[Tensor]) -> None:
        """The next tensor, in the order in which they were announced, as flat parts.

        Raises what writing an earlier block raised.
        """
        name, (dtype, shape) = next(self._due)
        missing = math.prod(shape)
        for block in blocks:
            assert block.dtype == dtype, name
            missing -= block.numel()
            if block.numel():
                self._submit(block.contiguous().view(torch.uint8).numpy().data)
        assert missing == 0, name

    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return self._sha256.hexdigest()

    def _submit(self, data: bytes | memoryview) -> None:
        self._waiting.append(self._thread.submit(self._write, data))
        if len(self._waiting) > MAX_WAITING_BLOCKS:
            self._waiting.popleft().result()

    def _write(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._file.write(data)
        unsent = self._file.tell() - self._sent
        if unsent >= SEND_BYTES:
            self._file.flush()
            _leave_cache(self._file, self._sent, unsent)
            self._sent += unsent


def verify_model(folder: Path, recipe: Recipe, digests: Mapping[str, str], tell: ProgressCallback) -> None:
    """Reads back what was written: every byte against its digest, and every name, shape and type against the recipe.

    Raises `OutputError` when the disk did not keep what it was given.
    """
    pace = Pace(tell, "verify", len(digests))
    found: dict[str, TensorInfo] = {}
    on_disk = _digests([folder / file_name for file_name in digests], _sha256_on_disk)
    for done, ((path, digest), expected_digest) in enumerate(zip(on_disk, digests.values(), strict=True)):
        if digest != expected_digest:
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


def input_digests(checkpoints: CheckpointSet) -> dict[str, dict[str, str]]:
    """SHA-256 of every weight file: checkpoint -> file -> digest."""
    paths = [path for checkpoint in checkpoints.checkpoints for path in checkpoint.files]
    digests = dict(_digests(paths, sha256_of))
    return {
        checkpoint.name: {path.name: digests[path] for path in checkpoint.files}
        for checkpoint in checkpoints.checkpoints
    }


def _digests(paths: Sequence[Path], digest: Callable[[Path], str]) -> Iterator[tuple[Path, str]]:
    """Each path with its digest, in order; several files at once."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        yield from zip(paths, pool.map(digest, paths), strict=True)


def _sha256_on_disk(path: Path) -> str:
    """Of what the disk has, not the page cache."""
    with path.open("rb") as file:
        _leave_cache(file, 0, path.stat().st_size)
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _leave_cache(file: BinaryIO, start: int, length: int) -> None:
    """On Linux, bytes that are on the disk leave the page cache, and others set out for the disk; elsewhere nothing."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)


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
