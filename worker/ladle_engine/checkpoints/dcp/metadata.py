"""`.metadata` of a DCP checkpoint: which chunks each tensor is made of, and which bytes of which file they are.

The classes are those of `torch/distributed/checkpoint/metadata.py` and `filesystem.py` of torch 2.13. They are read as
inert records: nothing is imported or run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ladle_engine.checkpoints.boxes import Box, box_of, fault_of_cut, sides
from ladle_engine.checkpoints.pickles.calls import DTYPES
from ladle_engine.checkpoints.pickles.follower import MAX_OPCODES, Asked
from ladle_engine.checkpoints.pickles.plain import pickled_value
from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Record
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
MAX_CHUNKS = 750_000
"""Of a checkpoint: 555,000 are a model of 723 tensors with AdamW on 256 ranks. They take some 25 seconds."""
BYTES_PER_CHUNK = 64
"""At least, of a file: real ones have more than 100."""
MOST_TRANSFORMS = 8
"""Of a chunk, one after the other."""
BYTES_PER_RECORD, BYTES_PER_OPCODE = 32, 2
"""At least, of a file: a real one has 140 bytes for a chunk, which are 3 records and 68 opcodes."""
UNKNOWN = "must be what `torch.distributed.checkpoint` writes, but describes something else"

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Index(Record):
    """What a stored chunk, or value, is."""

    name: str
    first: tuple[int, ...] | None
    """Of a chunk: its first indices."""


@dataclass(frozen=True, slots=True)
class Stored(Record):
    """Where a chunk, or a pickled value, stands."""

    file: str
    range: Range
    transforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Described(Record):
    """Which part of its tensor a chunk is."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


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
        reading = _Reading(file.path, min(MAX_CHUNKS, file.size // BYTES_PER_CHUNK))
        try:
            reading.add(pickled_value(file, _asked(file.size)), found, parts)
        except Malformed as error:
            raise corrupt(file.path, str(error)) from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise reading.unknown() from error
    for name, (info, chunks) in parts.items():
        kept = [chunk for chunk in chunks.values() if info.numel]
        if (fault := fault_of_cut(info.shape, [chunk.box for chunk in kept])) is not None:
            raise corrupt(files[0].path, f"must describe each number of `{name}` once, but its chunks {fault}")
        found.tensors[name] = ChunkedTensor(info, tuple(kept))
    _refuse_overlapping(files[0].path, found)
    return found


def _asked(file_bytes: int) -> Asked:
    """Large checkpoints have large descriptions."""
    return Asked(
        makers={f"{module}.{kind}": partial(_make, kind) for kind in MAKERS for module in MODULES},
        most_made=min(file_bytes // BYTES_PER_RECORD, 3 * MAX_CHUNKS),
        most_opcodes=max(MAX_OPCODES, min(file_bytes // BYTES_PER_OPCODE, 100 * MAX_CHUNKS)),
    )


class _Reading:
    """One file. Raises `CheckpointError`, and what Python does for records with something else in their places."""

    def __init__(self, path: Path, most_chunks: int) -> None:
        self.path = path
        self._most_chunks = most_chunks
        self._chunks = 0

    def add(
        self, value: Any, found: Metadata, parts: dict[str, tuple[TensorInfo, dict[tuple[int, ...], Chunk]]]
    ) -> None:
        attributes = self._attributes(value, "Metadata")
        stored = attributes["storage_data"]
        if not isinstance(stored, dict):
            raise self.unknown()
        stored = {self._made(index, Index): self._made(place, Stored) for index, place in stored.items()}
        for name, entry in attributes["state_dict_metadata"].items():
            if not isinstance(name, str):
                raise self.unknown()
            if _kind(entry) == "BytesStorageMetadata":
                found.values[name] = stored[Index(name, None)]
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
        return corrupt(self.path, UNKNOWN)

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
        if self._chunks > self._most_chunks:
            raise corrupt(self.path, f"must describe at most {self._most_chunks:,} chunks, but describes more")
        for chunk in attributes["chunks"]:
            described = self._made(chunk, _Described)
            box = box_of(described.offsets, described.sizes)
            if any(stop > size for (_, stop), size in zip(box, info.shape, strict=True)):
                raise corrupt(self.path, f"has a chunk of `{name}` that reaches beyond its shape {info.shape}")
            if math.prod(sides(box)):
                boxes.append(box)
        return info, boxes

    def _chunk(self, name: str, info: TensorInfo, box: Box, stored: Mapping[Index, Stored]) -> Chunk:
        found = stored.get(Index(name, _first(box)))
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

    def _made(self, value: Any, record: type[R]) -> R:
        """Of a class that stands in another module, only now."""
        if isinstance(value, record):
            return value
        if isinstance(value, Inert) and value.name == "a key":
            (value,) = value.arguments
        made = _make(_kind(value), value.attributes)
        if not isinstance(made, record):
            raise self.unknown()
        return made

    def _attributes(self, value: Any, kind: str) -> dict[Any, Any]:
        if _kind(value) != kind:
            raise self.unknown()
        attributes: dict[Any, Any] = value.attributes
        return attributes


def _index(attributes: Mapping[Any, Any]) -> Index:
    first = attributes.get("offset")
    return Index(_text(attributes["fqn"]), None if first is None else _indices(first))


def _stored(attributes: Mapping[Any, Any]) -> Stored:
    name, start, length = _text(attributes["relative_path"]), attributes["offset"], attributes["length"]
    if not is_plain_name(name):
        raise Malformed(f"must name files of its own folder, but has {name[:200]!r}")
    if not (_is_index(start) and _is_index(length)):
        raise Malformed(UNKNOWN)
    transforms = attributes.get("transform_descriptors") or ()
    if len(transforms) > MOST_TRANSFORMS:
        raise Malformed(UNKNOWN)
    return Stored(name, (start, start + length), tuple(map(_text, transforms)))


def _described(attributes: Mapping[Any, Any]) -> _Described:
    return _Described(_indices(attributes["offsets"]), _indices(attributes["sizes"]))


def _make(kind: str, attributes: Mapping[Any, Any]) -> Record:
    try:
        return MAKERS[kind](attributes)
    except (KeyError, TypeError) as error:
        raise Malformed(UNKNOWN) from error


R = TypeVar("R", bound=Record)
MAKERS: dict[str, Callable[[Mapping[Any, Any]], Record]] = {
    "MetadataIndex": _index,
    "_StorageInfo": _stored,
    "ChunkStorageMetadata": _described,
}
"""Of the classes that a description has once per chunk."""
MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")


def _kind(value: Any) -> str:
    return value.name.rpartition(".")[2] if isinstance(value, Inert) else ""


def _first(box: Box) -> tuple[int, ...]:
    return tuple(start for start, _ in box)


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_INDEX


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed(UNKNOWN)
    return value


def _indices(values: Any) -> tuple[int, ...]:
    # No lists: a tuple that was made of each would take memory that nothing counts.
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS or not all(map(_is_index, values)):
        raise Malformed(UNKNOWN)
    return values


def _refuse_overlapping(path: Path, found: Metadata) -> None:
    """Otherwise small files could claim to be large tensors. Tied tensors may be the same bytes."""
    chunks = [chunk.stored for tensor in found.tensors.values() for chunk in tensor.chunks]
    times = Counter((stored.file, stored.range) for stored in chunks)
    for (file, (_, end)), (other, (start, _)) in pairwise(sorted(times)):
        if file == other and start < end:
            raise corrupt(path, f"has chunks that overlap at byte {start:,} of `{file}`")
    if times and max(times.values()) > MAX_TIMES:
        raise corrupt(path, f"must use the same bytes for {MAX_TIMES} tensors at most, but has more")
