"""`.metadata` of a DCP checkpoint: which chunks each tensor is made of, and which bytes of which file they are.

The classes are those of `torch/distributed/checkpoint/metadata.py` and `filesystem.py` of torch 2.13. They are read as
inert records: nothing is imported or run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.boxes import Box, box_of, fault_of_cut, sides
from ladle_engine.checkpoints.pickles.calls import DTYPES
from ladle_engine.checkpoints.pickles.plain import pickled_value
from ladle_engine.checkpoints.pickles.values import Inert, Name
from ladle_engine.checkpoints.safetensors_file import MAX_DIMENSIONS, MAX_TENSORS, corrupt
from ladle_engine.checkpoints.tensor_kinds import unsupported
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.input_paths import is_plain_name

MAX_INDEX = 1 << 63
MOST_KEYS = 64
"""Of nested dicts and lists, down to one entry."""

MAX_TIMES = 16
"""That the same bytes may be a tensor."""
MAX_CHUNKS = 250_000
"""Of a checkpoint. More do not fit into what a pickle may take either."""

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a chunk, or a pickled value, stands."""

    file: str
    range: Range
    transforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    box: Box
    stored: Stored


@dataclass(frozen=True, slots=True)
class ChunkedTensor:
    info: TensorInfo
    chunks: tuple[Chunk, ...]
    """Those that are not empty; `fault_of_cut` finds none."""


@dataclass(kw_only=True)
class Metadata:
    """What one or several `.metadata` files say together. Names are those of DCP: keys of nested dicts, joined by
    dots."""

    tensors: dict[str, ChunkedTensor] = field(default_factory=dict)
    values: dict[str, Stored] = field(default_factory=dict)
    """All that is no tensor, pickled."""
    paths: dict[str, KeyPath] = field(default_factory=dict)
    """The keys of each name, where the checkpoint tells them."""


def read_metadata(files: Sequence[InputFile]) -> Metadata:
    """One file, or that of each rank, `__0.metadata` and so on.

    Raises `CheckpointError` (corrupt-checkpoint, unsafe-checkpoint, unsupported-tensors) that names the file.
    """
    found = Metadata()
    parts: dict[str, tuple[TensorInfo, dict[tuple[int, ...], Chunk]]] = {}
    for file in files:
        reading = _Reading(file.path)
        try:
            reading.add(pickled_value(file), found, parts)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise reading.unknown() from error
    for name, (info, chunks) in parts.items():
        kept = [chunk for chunk in chunks.values() if info.numel]
        if (fault := fault_of_cut(info.shape, [chunk.box for chunk in kept])) is not None:
            raise corrupt(files[0].path, f"must describe each number of `{name}` once, but its chunks {fault}")
        found.tensors[name] = ChunkedTensor(info, tuple(kept))
    _refuse_overlapping(files[0].path, found)
    return found


class _Reading:
    """One file. Raises `CheckpointError`, and what Python does for records with something else in their places."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks = 0

    def add(
        self, value: Any, found: Metadata, parts: dict[str, tuple[TensorInfo, dict[tuple[int, ...], Chunk]]]
    ) -> None:
        attributes = self._attributes(value, "Metadata")
        if not isinstance(attributes["storage_data"], dict):
            raise self.unknown()
        stored = dict(self._all_stored(attributes["storage_data"]))
        for name, entry in attributes["state_dict_metadata"].items():
            if not isinstance(name, str):
                raise self.unknown()
            if _kind(entry) == "BytesStorageMetadata":
                found.values[name] = stored[name, None]
                continue
            info, boxes = self._tensor(name, entry)
            known, chunks = parts.setdefault(name, (info, {}))
            if known != info:
                raise corrupt(self.path, f"must describe `{name}` as the files of other ranks do, but does not")
            for box in boxes:
                chunks.setdefault(_first(box), self._chunk(name, info, box, stored))
        if len(parts) > MAX_TENSORS:
            raise corrupt(self.path, f"must have at most {MAX_TENSORS:,} tensors, but has more")
        found.paths |= self._paths(attributes.get("planner_data"))

    def unknown(self) -> CheckpointError:
        return corrupt(self.path, "must be what `torch.distributed.checkpoint` writes, but describes something else")

    def _all_stored(self, storage_data: dict[Any, Any]) -> Iterator[tuple[tuple[str, Any], Stored]]:
        for index, info in storage_data.items():
            key, place = self._attributes(index, "MetadataIndex"), self._attributes(info, "_StorageInfo")
            offset = key.get("offset")
            name, start, length = place["relative_path"], place["offset"], place["length"]
            if not isinstance(name, str) or not is_plain_name(name):
                raise corrupt(self.path, f"must name files of its own folder, but has {str(name)[:200]!r}")
            if not (_is_index(start) and _is_index(length)):
                raise self.unknown()
            transforms = tuple(map(str, place.get("transform_descriptors") or ()))
            yield (
                (str(key["fqn"]), _indices(offset) if offset is not None else None),
                Stored(name, (start, start + length), transforms),
            )

    def _tensor(self, name: str, entry: Any) -> tuple[TensorInfo, list[Box]]:
        attributes = self._attributes(entry, "TensorStorageMetadata")
        dtype, layout = attributes["properties"].state[:2]
        if not isinstance(dtype, Name) or dtype.name not in DTYPES:
            raise self.unknown()
        if layout.name != "torch.strided":
            raise unsupported(self.path, name, f"a sparse tensor ({layout.name.removeprefix('torch.')[:50]})")
        info = TensorInfo(shape=_indices(attributes["size"]), dtype=DTYPES[dtype.name])
        if info.numel * info.dtype.itemsize >= MAX_INDEX:
            raise self.unknown()
        boxes = []
        self._chunks += len(attributes["chunks"])
        if self._chunks > MAX_CHUNKS:
            raise corrupt(self.path, f"must describe at most {MAX_CHUNKS:,} chunks, but describes more")
        for chunk in attributes["chunks"]:
            place = self._attributes(chunk, "ChunkStorageMetadata")
            box = box_of(_indices(place["offsets"]), _indices(place["sizes"]))
            if any(stop > size for (_, stop), size in zip(box, info.shape, strict=True)):
                raise corrupt(self.path, f"has a chunk of `{name}` that reaches beyond its shape {info.shape}")
            if math.prod(sides(box)):
                boxes.append(box)
        return info, boxes

    def _chunk(self, name: str, info: TensorInfo, box: Box, stored: dict[tuple[str, Any], Stored]) -> Chunk:
        found = stored.get((name, _first(box)))
        if found is None:
            raise corrupt(self.path, f"must say where each chunk is, but does not for one of `{name}`")
        length, least = found.range[1] - found.range[0], math.prod(sides(box)) * info.dtype.itemsize
        if length < least and not found.transforms:
            raise corrupt(self.path, f"gives a chunk of `{name}` {length:,} bytes, but it needs {least:,}")
        return Chunk(box, found)

    def _paths(self, planner_data: Any) -> dict[str, KeyPath]:
        if not isinstance(planner_data, dict):
            return {}
        return {
            name: path
            for name, path in planner_data.items()
            if isinstance(path, tuple) and len(path) <= MOST_KEYS and all(type(key) in (str, int) for key in path)
        }

    def _attributes(self, value: Any, kind: str) -> dict[Any, Any]:
        if _kind(value) != kind:
            raise self.unknown()
        attributes: dict[Any, Any] = value.attributes
        return attributes


def _kind(value: Any) -> str:
    return value.name.rpartition(".")[2] if isinstance(value, Inert) else ""


def _first(box: Box) -> tuple[int, ...]:
    return tuple(start for start, _ in box)


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_INDEX


def _indices(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS or not all(map(_is_index, values)):
        raise ValueError("no indices")
    return tuple(values)


def _refuse_overlapping(path: Path, found: Metadata) -> None:
    """Otherwise small files could claim to be large tensors. Tied tensors may be the same bytes."""
    chunks = [chunk.stored for tensor in found.tensors.values() for chunk in tensor.chunks]
    times = Counter((stored.file, stored.range) for stored in chunks)
    for (file, (_, end)), (other, (start, _)) in pairwise(sorted(times)):
        if file == other and start < end:
            raise corrupt(path, f"has chunks that overlap at byte {start:,} of `{file}`")
    if times and max(times.values()) > MAX_TIMES:
        raise corrupt(path, f"must use the same bytes for {MAX_TIMES} tensors at most, but has more")
