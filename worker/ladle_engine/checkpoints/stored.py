"""Where a checkpoint's tensors are: at places in its files, or in memory where a format does not tell the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.pieces import Pieces
from ladle_engine.checkpoints.tensor_kinds import dense
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.storage.file_parts import FileParts
from ladle_engine.storage.hashed_file import LoadedFile
from ladle_engine.storage.input_file import BytesSource, InputFile


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """A tensor of a file that was read whole."""

    tensor: Tensor

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(shape=tuple(self.tensor.shape), dtype=self.tensor.dtype)

    offset = 0
    is_plain = False

    def dense(self, file: BytesSource) -> Tensor:
        """All numbers, in their order; the file is not read again."""
        return dense(self.tensor)


Place = InFile | InMemory | Pieces


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file's tensors by the names that it gives them."""

    file: InputFile | FileParts | LoadedFile
    tensors: Mapping[str, Place]
    notes: tuple[str, ...] = ()
    """What was chosen between, for people."""
