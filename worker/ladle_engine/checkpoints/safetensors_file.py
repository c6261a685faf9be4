"""Reading safetensors files of strangers: the header is bounded and checked before it is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.stored import StoredFile
from ladle_engine.checkpoints.tensor_kinds import dtype_kind, unsupported
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.json_text import parse_json

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 250_000
"""Of one checkpoint. A mixture of experts of 600 B parameters has some 100,000; each takes about 1 kB of memory."""
VALUES_PER_TENSOR = 16
"""A comma or a bracket before each."""
MAX_DIMENSIONS = 64
"""torch has no tensor of more."""
MAX_NAME_CHARS = 1_000

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

UNSUPPORTED_DTYPES = {
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "float6_e2m3",
    "F6_E3M2": "float6_e3m2",
    "F8_E8M0": "float8_e8m0fnu",
}
"""Types of the format that have no average."""


MOST_KEPT_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Header:
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    """Tensor name -> its first byte in the file."""
    metadata: Mapping[str, str]

    @cached_property
    def places(self) -> Mapping[str, InFile]:
        return {name: InFile(info=info, offset=self.offsets[name]) for name, info in self.tensors.items()}


_last: tuple[bytes, int, Header] | None = None
"""The header that was read last, as it stands in the file, with the file's size. Checkpoints of one run have the same,
and parsing it takes most of the time that opening one takes."""


def header_of(file: InputFile) -> Header:
    """Raises `CheckpointError` (corrupt-checkpoint) naming the file, the rule and the value."""
    global _last
    path = file.path
    if file.size < 8:
        raise corrupt(path, f"must be at least 8 bytes long, but is {file.size}")
    header_bytes = int.from_bytes(file.read(0, 8), "little")
    if header_bytes > min(MAX_HEADER_BYTES, file.size - 8):
        raise corrupt(path, f"is {file.size:,} bytes long, but its header claims {header_bytes:,} bytes")
    text = file.read(8, header_bytes)
    last = _last
    if last is not None and last[:2] == (text, file.size):
        return last[2]
    try:
        parsed = parse_json(text, most_bytes=MAX_HEADER_BYTES, most_values=VALUES_PER_TENSOR * MAX_TENSORS, unique=True)
    except ValueError as error:
        raise corrupt(path, f"must begin with a JSON header, but it does not parse ({error})") from error
    if not isinstance(parsed, dict):
        raise corrupt(path, f"must have a header object, but it is a {type(parsed).__name__}")
    if len(parsed) > MAX_TENSORS:
        raise corrupt(path, f"must have at most {MAX_TENSORS:,} tensors, but has {len(parsed):,}")
    metadata = parsed.pop("__metadata__", {})
    tensors = {name: _tensor_info(path, name, entry) for name, entry in parsed.items()}
    _check_offsets(path, parsed, data_bytes=file.size - 8 - header_bytes)
    offsets = {name: 8 + header_bytes + entry["data_offsets"][0] for name, entry in parsed.items()}
    header = Header(tensors=tensors, offsets=offsets, metadata=metadata if isinstance(metadata, dict) else {})
    if header_bytes <= MOST_KEPT_BYTES:
        _last = (text, file.size, header)
    return header


def stored_tensors(file: InputFile) -> StoredFile:
    """Raises as `header_of`."""
    return StoredFile(file=file, tensors=header_of(file).places)


def read_all(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of a result, in memory. Raises as `header_of`."""
    with InputFile(path, is_ours=True) as file:
        return {name: place.dense(file) for name, place in stored_tensors(file).tensors.items()}


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    refuse_name(path, name)
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise corrupt(path, f"must describe `{name}` by dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if isinstance(dtype, str) and dtype in UNSUPPORTED_DTYPES:
        raise unsupported(path, name, dtype_kind(UNSUPPORTED_DTYPES[dtype]))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise corrupt(path, f"has `{name}` of dtype {dtype!r}, which Ladle does not know")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise corrupt(
            path,
            f"must give `{name}` a shape of at most {MAX_DIMENSIONS} whole numbers and two offsets, all below 2^63",
        )
    info = TensorInfo(shape=tuple(shape), dtype=DTYPES[dtype])
    if offsets[1] - offsets[0] != math.prod(shape) * info.dtype.itemsize:
        raise corrupt(path, f"has `{name}` of shape {shape}, which does not fill its {offsets[1] - offsets[0]:,} bytes")
    return info


def _naturals(values: Any) -> bool:
    if not isinstance(values, list) or len(values) > MAX_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_offsets(path: Path, entries: dict[str, Any], data_bytes: int) -> None:
    """The tensors must fill the data without gap or overlap, as the format says."""
    position = 0
    for start, stop in sorted(tuple(entry["data_offsets"]) for entry in entries.values()):
        if start != position:
            raise corrupt(path, f"has a gap or an overlap in its data at byte {position:,}")
        position = stop
    if position != data_bytes:
        raise corrupt(
            path, f"holds {data_bytes:,} bytes of data, but its header describes {position:,}, as if it were truncated"
        )


def refuse_name(path: Path, name: str) -> None:
    """Raises `CheckpointError` (corrupt-checkpoint) for a name that no other file could have."""
    if len(name) > MAX_NAME_CHARS:
        raise corrupt(path, f"must have names of at most {MAX_NAME_CHARS:,} characters, but has `{name[:100]}...`")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise corrupt(path, f"must have names that are UTF-8, but has `{name}`") from error


def corrupt(path: Path, what: str) -> CheckpointError:
    return CheckpointError("corrupt-checkpoint", f"The checkpoint file `{path}` {what}.")
