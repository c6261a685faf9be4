"""A checkpoint as named tensors, whatever its format, read by place and never through a memory map."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.checkpoints import pickle_file, safetensors_file
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.stored import InFile, InMemory, Place, StoredFile
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo, TensorReader
from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import BytesSource, InputFile, bytes_of

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""Prefixes that DistributedDataParallel, torch.compile and FSDP put before every name."""

FORMATS: dict[str, Callable[[InputFile], StoredFile]] = {
    "safetensors": safetensors_file.stored_tensors,
    "pickle": pickle_file.stored_tensors,
}
"""What finds the tensors of one file."""


class CheckpointReader:
    """One open checkpoint: a file, or the shards of an index. Several threads may read."""

    def __init__(self, checkpoint: Checkpoint, stored: Sequence[StoredFile]) -> None:
        self.files: Sequence[BytesSource] = [each.file for each in stored]
        self._stored = stored
        self._number_of = _file_of_each(stored)
        self._stored_name = unwrapped(self._number_of)
        self._tensors = {name: self._place(name).info for name in self._stored_name}
        self._dense: tuple[str, Tensor] | None = None
        """The last tensor whose numbers do not stand one after the other in the file: it may be read in parts."""

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def read(self, name: str) -> Tensor:
        place = self._place(name)
        if isinstance(place, InMemory) or not place.is_plain:
            return place.dense(self._file(name))
        values = torch.empty(place.info.shape, dtype=place.info.dtype)
        self.read_into(name, 0, values.view(-1))
        return values

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        place = self._place(name)
        if not out.numel():
            return
        if place.is_plain:
            self._file(name).read_into(bytes_of(out), place.offset + start * out.itemsize)
            return
        if self._dense is None or self._dense[0] != name:
            self._dense = None
            self._dense = (name, place.dense(self._file(name)).view(-1))
        out.copy_(self._dense[1][start : start + len(out)])

    def position(self, name: str) -> tuple[int, int]:
        return self._number_of[self._stored_name[name]], self._place(name).offset

    def extent(self, name: str) -> tuple[int, Range] | None:
        place = self._place(name)
        if not isinstance(place, InFile) or not place.is_plain:
            return None
        return self._number_of[self._stored_name[name]], (place.offset, place.offset + place.num_bytes)

    def through(self, files: Sequence[BytesSource]) -> CheckpointReader:
        """The same tensors, read from other sources of the same files."""
        other = object.__new__(CheckpointReader)
        other.__dict__ |= self.__dict__ | {"files": files, "_dense": None}
        return other

    def _place(self, name: str) -> Place:
        original = self._stored_name[name]
        return self._stored[self._number_of[original]].tensors[original]

    def _file(self, name: str) -> BytesSource:
        return self.files[self._number_of[self._stored_name[name]]]


def _file_of_each(stored: Sequence[StoredFile]) -> dict[str, int]:
    """Tensor name -> which file holds it."""
    number_of: dict[str, int] = {}
    for number, each in enumerate(stored):
        for name in each.tensors:
            if name in number_of:
                other = stored[number_of[name]].file.path.name
                raise corrupt(each.file.path, f"must not repeat `{name}`, which `{other}` has too")
            number_of[name] = number
    return number_of


@dataclass(kw_only=True)
class _Open:
    """The files of a checkpoint that is open, and how often it is."""

    stored: list[StoredFile]
    resources: ExitStack
    holders: int = 0


@dataclass
class _Opened:
    lock: threading.Lock = field(default_factory=threading.Lock)
    by_files: dict[tuple[Path, ...], _Open] = field(default_factory=dict)


_opened = _Opened()


def open_checkpoint(checkpoint: Checkpoint) -> AbstractContextManager[TensorReader]:
    """Whoever opens a checkpoint that is open already reads the same files: a job holds all of them from beginning to
    end, so each file is opened once, and stays the one that was opened.

    Raises `CheckpointError` (corrupt, unsafe) that names the file.
    """
    return READERS[checkpoint.format](checkpoint)


@contextmanager
def _open_files(checkpoint: Checkpoint) -> Iterator[TensorReader]:
    with _opened.lock:
        held = _opened.by_files.get(checkpoint.files) or _open(checkpoint)
        _opened.by_files[checkpoint.files] = held
        held.holders += 1
    try:
        yield CheckpointReader(checkpoint, held.stored)
    finally:
        with _opened.lock:
            held.holders -= 1
            if not held.holders:
                del _opened.by_files[checkpoint.files]
                held.resources.close()


def _open(checkpoint: Checkpoint) -> _Open:
    with ExitStack() as resources:
        files = [resources.enter_context(InputFile(path)) for path in checkpoint.files]
        stored = [FORMATS[checkpoint.format](file) for file in files]
        return _Open(stored=stored, resources=resources.pop_all())


READERS: dict[str, Callable[[Checkpoint], AbstractContextManager[TensorReader]]] = dict.fromkeys(FORMATS, _open_files)
"""`Checkpoint.format` -> what opens one."""


@contextmanager
def open_all(checkpoints: CheckpointSet) -> Iterator[list[TensorReader]]:
    """All K checkpoints open at once. Nothing is read but what is asked for, so this costs no memory."""
    with ExitStack() as stack:
        yield [stack.enter_context(open_checkpoint(checkpoint)) for checkpoint in checkpoints.checkpoints]


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Name without wrappers -> name as stored. A wrapper is taken off only when every name has it."""
    mapping = {name: name for name in names}
    while mapping:
        prefix = next((wrapper for wrapper in WRAPPERS if all(name.startswith(wrapper) for name in mapping)), None)
        if prefix is None:
            break
        mapping = {name.removeprefix(prefix): original for name, original in mapping.items()}
    return mapping


def shards_of(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each checked to be a plain name beside it. Raises `CheckpointError`."""
    try:
        parsed = json.loads(index.read_text())
        names = sorted(set(parsed["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt(index, "must be a JSON object with a `weight_map` of file names") from error
    shards = []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise corrupt(index, f"must name shards beside it, but names {name!r}")
        shard = index.parent / name
        if not shard.is_file():
            raise corrupt(index, f"names the shard `{name}`, but there is no such file")
        shards.append(shard)
    return tuple(shards)
