"""A checkpoint as named tensors, whatever its format, read by place and never through a memory map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from ladle_engine.checkpoints import safetensors_file
from ladle_engine.checkpoints.adapters import reader as adapter
from ladle_engine.checkpoints.dcp import folder as dcp_folder
from ladle_engine.checkpoints.dcp import rank_files, sharded_safetensors
from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.names import asked_for
from ladle_engine.checkpoints.pickles import pickle_file
from ladle_engine.checkpoints.pickles.state_dicts import no_average
from ladle_engine.checkpoints.pieces import Pieces
from ladle_engine.checkpoints.safetensors_file import MAX_TENSORS, corrupt
from ladle_engine.checkpoints.stored import InMemory, Place, StoredFile
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo, TensorReader
from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import BytesSource, InputFile, bytes_of

Files = Sequence[InputFile]


def _each(stored_tensors: Callable[[InputFile], StoredFile]) -> Callable[[Files], list[StoredFile]]:
    return lambda files: [stored_tensors(file) for file in files]


FORMATS: dict[str, Callable[[Files], list[StoredFile]]] = {
    "safetensors": _each(safetensors_file.stored_tensors),
    "pickle": _each(pickle_file.stored_tensors),
    "dcp": dcp_folder.stored_tensors,
    "ranks": rank_files.stored_tensors,
    "dcp-safetensors": sharded_safetensors.stored_tensors,
}
"""What finds the tensors of a checkpoint's files."""

AVERAGES: dict[str, Callable[[Files], list[StoredFile]]] = {
    "pickle": _each(pickle_file.stored_average),
    "dcp": partial(dcp_folder.stored_tensors, use_ema=True),
    "ranks": partial(rank_files.stored_tensors, use_ema=True),
}
"""The same for `use_ema`. Files of other formats hold one model."""

MOST_KEPT_FILES = 256
"""That stay open when nobody reads them."""


class CheckpointReader:
    """One open checkpoint: a file, or the shards of an index. Several threads may read."""

    def __init__(self, stored: Sequence[StoredFile], like: Mapping[str, TensorInfo]) -> None:
        """`like` are the tensors by whose names its own are asked for."""
        self.files: Sequence[BytesSource] = [each.file for each in stored]
        self.notes = tuple(dict.fromkeys(note for each in stored for note in each.notes))
        self.like = like
        self._stored = stored
        self._number_of = _file_of_each(stored)
        infos = {name: stored[number].tensors[name].info for name, number in self._number_of.items()}
        self._stored_name = asked_for(like, infos)
        self._tensors = {name: infos[original] for name, original in self._stored_name.items()}
        self._dense: tuple[str, Tensor] | None = None
        """The last tensor whose numbers do not stand one after the other in the file: it may be read in parts."""

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def stored_names(self) -> Mapping[str, str]:
        return self._stored_name

    def read(self, name: str) -> Tensor:
        place = self._place(name)
        return place.dense(*self.files) if isinstance(place, Pieces) else place.dense(self._file(name))

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        place = self._place(name)
        if not out.numel():
            return
        if isinstance(place, Pieces):
            place.read_into(self.files, start, out)
            return
        if place.is_plain:
            self._file(name).read_into(bytes_of(out), place.offset + start * out.itemsize)
            return
        dense = self._dense
        if dense is None or dense[0] != name:
            self._dense = dense = (name, place.dense(self._file(name)).view(-1))
        out.copy_(dense[1][start : start + len(out)])

    def position(self, name: str) -> tuple[int, int]:
        place = self._place(name)
        return place.position if isinstance(place, Pieces) else (self._number_of[self._stored_name[name]], place.offset)

    def extent(self, name: str) -> tuple[int, Range] | None:
        place = self._place(name)
        if isinstance(place, Pieces):
            return place.extent
        if not isinstance(place, InFile) or not place.is_plain:
            return None
        return self._number_of[self._stored_name[name]], (place.offset, place.offset + place.num_bytes)

    def through(self, files: Sequence[BytesSource]) -> CheckpointReader:
        other = object.__new__(CheckpointReader)
        other.__dict__ |= self.__dict__ | {"files": files, "_dense": None}
        return other

    def _place(self, name: str) -> Place:
        original = self._stored_name[name]
        return self._stored[self._number_of[original]].tensors[original]

    def _file(self, name: str) -> BytesSource:
        return self.files[self._number_of[self._stored_name[name]]]


class ReaderWithStandIns:
    """A checkpoint that answers to names that it lacks, with other tensors of its own."""

    def __init__(self, reader: TensorReader, stand_ins: Mapping[str, str]) -> None:
        self.notes = reader.notes
        self.files = reader.files
        self._reader = reader
        self._stand_ins = stand_ins

    def tensors(self) -> Mapping[str, TensorInfo]:
        own = self._reader.tensors()
        return {**own, **{name: own[other] for name, other in self._stand_ins.items()}}

    def stored_names(self) -> Mapping[str, str]:
        return self._reader.stored_names()

    def read(self, name: str) -> Tensor:
        return self._reader.read(self._stand_ins.get(name, name))

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        self._reader.read_into(self._stand_ins.get(name, name), start, out)

    def position(self, name: str) -> tuple[int, int]:
        return self._reader.position(self._stand_ins.get(name, name))

    def extent(self, name: str) -> tuple[int, Range] | None:
        return self._reader.extent(self._stand_ins.get(name, name))

    def through(self, files: Sequence[BytesSource]) -> ReaderWithStandIns:
        return ReaderWithStandIns(self._reader.through(files), self._stand_ins)


def _file_of_each(stored: Sequence[StoredFile]) -> dict[str, int]:
    """Tensor name -> which file holds it."""
    number_of: dict[str, int] = {}
    for number, each in enumerate(stored):
        for name in each.tensors:
            if name in number_of:
                other = stored[number_of[name]].file.path.name
                raise corrupt(each.file.path, f"must not repeat `{name}`, which `{other}` has too")
            number_of[name] = number
    if len(number_of) > MAX_TENSORS:
        raise corrupt(
            stored[-1].file.path, f"is one of shards with {len(number_of):,} tensors, of {MAX_TENSORS:,} at most"
        )
    return number_of


def _no_average(files: Files) -> list[StoredFile]:
    raise no_average(files[0].path)


class _OpenFiles:
    """The files of one checkpoint that is open."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        with ExitStack() as resources:
            files = [resources.enter_context(InputFile(path)) for path in checkpoint.files]
            find = AVERAGES.get(checkpoint.format, _no_average) if checkpoint.use_ema else FORMATS[checkpoint.format]
            self._stored = find(files)
            self._resources = resources.pop_all()
        # Asked of all that are open whenever one is closed.
        self.takes_memory = any(isinstance(place, InMemory) for each in self._stored for place in each.tensors.values())
        self._readers: list[CheckpointReader] = []
        self.holders = 0

    def reader(self, like: Mapping[str, TensorInfo]) -> CheckpointReader:
        found = next((reader for reader in self._readers if reader.like is like), None)
        if found is None:
            self._readers.append(found := CheckpointReader(self._stored, like))
        return found

    def close(self) -> None:
        self._resources.close()


class _Pool:
    """What is open, by the paths of its files and which of their models is read."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[tuple[tuple[Path, ...], bool], _OpenFiles] = {}
        self._keepers = 0

    @contextmanager
    def reader(self, checkpoint: Checkpoint) -> Iterator[TensorReader]:
        with self._lock:
            key = (checkpoint.files, checkpoint.use_ema)
            held = self._open.get(key) or _OpenFiles(checkpoint)
            self._open[key] = held
            held.holders += 1
        try:
            yield held.reader(checkpoint.like)
        finally:
            with self._lock:
                held.holders -= 1
                self._close_idle()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        with self._lock:
            self._keepers += 1
        try:
            yield
        finally:
            with self._lock:
                self._keepers -= 1
                self._close_idle()

    def _close_idle(self) -> None:
        """All that nobody reads or, where somebody keeps them, what takes memory or is too many."""
        kept = 0
        for key, held in list(self._open.items()):
            kept += len(key[0])
            if not held.holders and (not self._keepers or held.takes_memory or kept > MOST_KEPT_FILES):
                del self._open[key]
                held.close()


_pool = _Pool()


@contextmanager
def keeping_files_open() -> Iterator[None]:
    """Inside, files that were opened stay open, and each is opened once: whoever opens it again goes on with it."""
    with _pool.keeping():
        yield


def open_checkpoint(checkpoint: Checkpoint) -> AbstractContextManager[TensorReader]:
    """Whoever opens a checkpoint that is open already reads the same files.

    Raises `CheckpointError` (corrupt, unsafe, unsupported, unreadable) that names the file.
    """
    opened = READERS[checkpoint.format](checkpoint)
    return _standing_in(opened, checkpoint.stand_ins) if checkpoint.stand_ins else opened


@contextmanager
def _standing_in(opened: AbstractContextManager[TensorReader], stand_ins: Mapping[str, str]) -> Iterator[TensorReader]:
    with opened as reader:
        yield ReaderWithStandIns(reader, stand_ins)


@contextmanager
def open_all(checkpoints: CheckpointSet) -> Iterator[list[TensorReader]]:
    """All K checkpoints open at once. Nothing is read but what is asked for, so this costs no memory."""
    with ExitStack() as stack:
        yield [stack.enter_context(open_checkpoint(checkpoint)) for checkpoint in checkpoints.checkpoints]


READERS: dict[str, Callable[[Checkpoint], AbstractContextManager[TensorReader]]] = {
    **dict.fromkeys(FORMATS, _pool.reader),
    adapter.FORMAT: partial(adapter.open_adapter, open_plain=_pool.reader),
}
"""`Checkpoint.format` -> what opens one."""
