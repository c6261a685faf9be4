"""One reader per format: a checkpoint as named tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ladle_engine.checkpoints.names import asked_for
from ladle_engine.checkpoints.pickle_file import load_state_dict
from ladle_engine.checkpoints.safetensors_file import corrupt, read_header
from ladle_engine.checkpoints.tensor_kinds import dense
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo, TensorReader


class SafetensorsReader:
    """One file, or the shards of an index; memory-mapped. Several threads may read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._file_of: dict[str, Path] = {}
        stored: dict[str, TensorInfo] = {}
        for path in checkpoint.files:
            header = read_header(path)
            for name, info in header.tensors.items():
                if name in stored:
                    raise corrupt(path, f"must not repeat `{name}`, which `{self._file_of[name].name}` has too")
                stored[name] = info
                self._file_of[name] = path
        self.notes: tuple[str, ...] = ()
        self._stored_name = asked_for(checkpoint.like, stored)
        self._tensors = {name: stored[original] for name, original in self._stored_name.items()}
        self._open: dict[Path, Any] = {}
        self._opening = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._open.clear()

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def stored_names(self) -> Mapping[str, str]:
        return self._stored_name

    def read(self, name: str) -> Tensor:
        original = self._stored_name[name]
        path = self._file_of[original]
        try:
            with self._opening:
                if path not in self._open:
                    self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            tensor: Tensor = self._open[path].get_tensor(original)
        except SafetensorError as error:
            raise corrupt(path, f"must be a safetensors file, but does not read ({error})") from error
        return tensor


class PickleReader:
    """One `.pt` file or the shards of an index, read weights-only; memory-mapped where its format allows."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._weights: dict[str, Tensor] = {}
        notes: list[str] = []
        for path in checkpoint.files:
            loaded = load_state_dict(path)
            if repeated := self._weights.keys() & loaded.tensors.keys():
                raise corrupt(path, f"must not repeat `{min(repeated)}`, which another shard has too")
            self._weights |= loaded.tensors
            notes += loaded.notes
        self.notes: tuple[str, ...] = tuple(dict.fromkeys(notes))
        stored = {
            name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype) for name, tensor in self._weights.items()
        }
        self._stored_name = asked_for(checkpoint.like, stored)
        self._tensors = {name: stored[original] for name, original in self._stored_name.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.clear()

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def stored_names(self) -> Mapping[str, str]:
        return self._stored_name

    def read(self, name: str) -> Tensor:
        return dense(self._weights[self._stored_name[name]])


def open_checkpoint(checkpoint: Checkpoint) -> AbstractContextManager[TensorReader]:
    """Raises `CheckpointError` (corrupt, unsafe) that names the file."""
    return READERS[checkpoint.format](checkpoint)


class OpenCheckpoints:
    """All K checkpoints open at once; what the formats allow is memory-mapped, so this costs no memory."""

    def __init__(self, checkpoints: CheckpointSet) -> None:
        self._stack = ExitStack()
        self.readers: list[TensorReader] = []
        with ExitStack() as stack:
            for checkpoint in checkpoints.checkpoints:
                self.readers.append(stack.enter_context(open_checkpoint(checkpoint)))
            self._stack = stack.pop_all()

    def __enter__(self) -> list[TensorReader]:
        return self.readers

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()


def open_all(checkpoints: CheckpointSet) -> OpenCheckpoints:
    return OpenCheckpoints(checkpoints)


READERS: dict[str, Callable[[Checkpoint], SafetensorsReader | PickleReader]] = {
    "safetensors": SafetensorsReader,
    "pickle": PickleReader,
}
