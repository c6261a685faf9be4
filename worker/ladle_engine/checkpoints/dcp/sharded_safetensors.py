"""Parts of tensors in a safetensors file per rank.

DCP's `HuggingFaceStorageWriter(save_distributed=True)` leaves them; see `_hf_utils.py` of torch 2.13 beside it. Each
header says where its parts begin in their tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.boxes import Box, box_of, fault_of_cut
from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.pieces import PieceInFile, Pieces, pieces_in_order
from ladle_engine.checkpoints.safetensors_file import MAX_HEADER_BYTES, MAX_TENSORS, corrupt, header_of
from ladle_engine.checkpoints.stored import StoredFile
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.json_text import parse_json

KEY = "DCP_SHARDING_INFO"
VALUES_PER_TENSOR = 64


@dataclass(frozen=True, slots=True)
class _Part:
    file: int
    box: Box
    place: InFile


def stored_tensors(files: Sequence[InputFile]) -> list[StoredFile]:
    """Raises `CheckpointError` (corrupt-checkpoint) for files that are damaged, or of which one is missing."""
    parts: dict[str, dict[tuple[int, ...], _Part]] = defaultdict(dict)
    for number, file in enumerate(files):
        header = header_of(file)
        starts = _starts(file.path, header.metadata.get(KEY, ""))
        for name, info in header.tensors.items():
            start = starts.get(name)
            if start is None or len(start) != len(info.shape):
                raise corrupt(file.path, f"must say where its part of `{name}` begins, but does not")
            place = InFile(info=info, offset=header.offsets[name])
            parts[name].setdefault(start, _Part(number, box_of(start, info.shape), place))
    first = files[0].path
    tensors = {name: _put_together(first, name, list(found.values())) for name, found in parts.items()}
    return [StoredFile(file=file, tensors={} if number else tensors) for number, file in enumerate(files)]


def _put_together(path: Path, name: str, parts: Sequence[_Part]) -> Pieces:
    """The shape is that of all parts together: no file tells it."""
    dtypes = {part.place.info.dtype for part in parts}
    dimensions = {len(part.box) for part in parts}
    if len(dtypes) > 1 or len(dimensions) > 1:
        raise corrupt(path, f"must hold its part of `{name}` as the files of other ranks do, but does not")
    shape = tuple(max(stop for _, stop in sides) for sides in zip(*(part.box for part in parts), strict=True))
    kept = [part for part in parts if part.place.info.numel]
    if kept and (fault := fault_of_cut(shape, [part.box for part in kept])) is not None:
        raise corrupt(
            path, f"must make up `{name}` with the other `shard-*` files, but their parts {fault}. Is one missing?"
        )
    info = TensorInfo(shape=shape, dtype=dtypes.pop())
    return pieces_in_order(info, [PieceInFile(part.box, part.file, part.place.offset, part.place) for part in kept])


def _starts(path: Path, text: str) -> dict[str, tuple[int, ...]]:
    try:
        parsed = parse_json(
            text.encode(), most_bytes=MAX_HEADER_BYTES, most_values=VALUES_PER_TENSOR * MAX_TENSORS, unique=True
        )
        return {name: _indices(entry["saved_offsets"]) for name, entry in parsed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(path, f"must say as `{KEY}` where its parts begin, but does not") from error


def _indices(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise ValueError("no indices")
    return tuple(values)
