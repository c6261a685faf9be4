"""Writes a model as a checkpoint of torch.distributed.checkpoint (DCP), chunk after chunk.

Each chunk is a small archive of `torch.save` in a `.distcp` file, and `.metadata` says where it is; see
`torch/distributed/checkpoint/filesystem.py` of torch 2.13. A large tensor is several chunks, so that memory is one
chunk, whatever the tensor's size.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.boxes import Box, rows_within, sides
from ladle_engine.checkpoints.dcp.metadata import KeyPath, Stored
from ladle_engine.checkpoints.dcp.rest import Rest
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.progress import pulse
from ladle_engine.storage.atomic_folder import sync_file, sync_folder
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.storage.page_cache import leave_cache

CHUNK_BYTES = 16 << 20
"""Of one chunk's numbers, at most."""
COPIED_BYTES = 4 << 20
"""What is copied at once of the rest of a checkpoint."""
SEND_BYTES = 32 << 20
METADATA_FILE = ".metadata"


@dataclass(frozen=True, slots=True)
class _Place:
    file: str
    offset: int
    length: int


@dataclass(kw_only=True)
class _Described:
    """What `.metadata` will say."""

    tensors: dict[str, tuple[TensorInfo, list[tuple[Box, _Place]]]] = field(default_factory=dict)
    values: dict[str, _Place] = field(default_factory=dict)
    paths: Mapping[str, KeyPath]

    def add(self, rest: Rest, name: str, info: TensorInfo, chunks: list[tuple[Box, _Place]]) -> None:
        """A weight, under the name that the checkpoint gives it."""
        self.tensors[rest.names.get(name, name)] = (info, chunks)

    def pickled(self) -> bytes:
        # Slow to import, and seldom needed.
        from torch.distributed.checkpoint import metadata as of_torch
        from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo

        entries: dict[str, Any] = {name: of_torch.BytesStorageMetadata() for name in self.values}
        stored = {of_torch.MetadataIndex(name): place for name, place in self.values.items()}
        for name, (info, chunks) in self.tensors.items():
            described = []
            for number, (box, place) in enumerate(chunks):
                offsets = torch.Size(start for start, _ in box)
                described.append(of_torch.ChunkStorageMetadata(offsets=offsets, sizes=torch.Size(sides(box))))
                stored[of_torch.MetadataIndex(name, offsets, number)] = place
            entries[name] = of_torch.TensorStorageMetadata(
                properties=of_torch.TensorProperties(dtype=info.dtype), size=torch.Size(info.shape), chunks=described
            )
        return pickle.dumps(
            of_torch.Metadata(
                state_dict_metadata=entries,
                planner_data={name: self.paths.get(name, (name,)) for name in entries},
                storage_data={
                    index: _StorageInfo(place.file, place.offset, place.length) for index, place in stored.items()
                },
                storage_meta=of_torch.StorageMeta(),
                version=CURRENT_DCP_VERSION,
            )
        )


class _Files:
    """`__0_0.distcp`, `__0_1.distcp` ...: the next one is begun once one has reached its size."""

    def __init__(self, folder: Path, max_file_bytes: int) -> None:
        self.digests: dict[str, str] = {}
        self._folder = folder
        self._most = max_file_bytes
        self._size = self._sent = 0
        self._open()

    def put(self, write: Callable[[_Files], None]) -> _Place:
        """What is written by `write`, as one entry."""
        if self._size >= self._most:
            self.close()
            self._open()
        start = self._size
        write(self)
        return _Place(self._name, start, self._size - start)

    def write(self, data: bytes | memoryview) -> int:
        """As a stream does, for `torch.save`."""
        count = memoryview(data).nbytes
        self._sha256.update(data)
        self._file.write(data)
        COUNTS.wrote(count)
        self._size += count
        pulse()
        if self._size - self._sent >= SEND_BYTES:
            self._file.flush()
            leave_cache(self._file, self._sent, self._size - self._sent)
            self._sent = self._size
        return count

    def flush(self) -> None:
        return

    def close(self) -> None:
        self._file.close()
        sync_file(self._folder / self._name)
        self.digests[self._name] = self._sha256.hexdigest()

    def abandon(self) -> None:
        self._file.close()

    def _open(self) -> None:
        self._name = f"__0_{len(self.digests)}.distcp"
        self._file = (self._folder / self._name).open("xb")
        self._sha256 = hashlib.sha256()
        self._size = self._sent = 0


def write_dcp(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    blocks: Callable[[], Iterator[Tensor]],
    rest: Rest,
    *,
    tied: Mapping[str, str],
    max_file_bytes: int,
) -> dict[str, str]:
    """Writes `.metadata` and the files that it describes, and returns each one's SHA-256.

    Args:
        tensors: name -> what is written, in the order in which `blocks` gives the flat parts of each.
        rest: how a checkpoint names them, and what else it holds, which is copied.
        tied: further names -> the name of the tensor that they are.
        max_file_bytes: a file that has so many gets no more.
    """
    described = _Described(paths=rest.paths)
    files = _Files(folder, max_file_bytes)
    try:
        for name, info in tensors.items():
            described.add(rest, name, info, [(box, files.put(_saved(chunk))) for box, chunk in _chunks(info, blocks())])
        for alias, name in tied.items():
            described.add(rest, alias, *described.tensors[rest.names.get(name, name)])
        for name, other in rest.tensors.items():
            placed = [(chunk.box, files.put(_copied(rest, chunk.stored))) for chunk in other.chunks]
            described.tensors[name] = (other.info, placed)
        for name, value in rest.values.items():
            described.values[name] = files.put(_copied(rest, value))
        files.close()
    except BaseException:
        files.abandon()
        raise
    content = described.pickled()
    (folder / METADATA_FILE).write_bytes(content)
    sync_file(folder / METADATA_FILE)
    sync_folder(folder)
    return {METADATA_FILE: hashlib.sha256(content).hexdigest(), **files.digests}


def _chunks(info: TensorInfo, blocks: Iterator[Tensor]) -> Iterator[tuple[Box, Tensor]]:
    """The tensor in boxes that follow each other, from flat parts of any length."""
    left = torch.empty(0, dtype=info.dtype)
    for box in rows_within(info.shape, CHUNK_BYTES // info.dtype.itemsize):
        numbers = torch.empty(sides(box), dtype=info.dtype)
        flat, done = numbers.view(-1), 0
        while done < flat.numel():
            left = left if left.numel() else next(blocks)
            count = min(left.numel(), flat.numel() - done)
            flat[done : done + count] = left[:count]
            left, done = left[count:], done + count
        yield box, numbers
    assert not left.numel(), "a tensor must not have more numbers than its shape"
    assert next(blocks, None) is None, "a tensor must not have more blocks than its shape"


def _saved(chunk: Tensor) -> Callable[[_Files], None]:
    return lambda files: torch.save(chunk, files)  # type: ignore[arg-type]  # it wants no more than `write`


def _copied(rest: Rest, stored: Stored) -> Callable[[_Files], None]:
    def copy(files: _Files) -> None:
        start, stop = stored.range
        for offset in range(start, stop, COPIED_BYTES):
            files.write(rest.files[stored.file].read(offset, min(COPIED_BYTES, stop - offset)))

    return copy
