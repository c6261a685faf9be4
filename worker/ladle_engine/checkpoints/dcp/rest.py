"""How a DCP checkpoint names its weights, and what else it holds: the optimiser's state, counters, generators."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ladle_engine.checkpoints.dcp.folder import METADATA_SUFFIX
from ladle_engine.checkpoints.dcp.metadata import ChunkedTensor, KeyPath, Stored, read_metadata
from ladle_engine.checkpoints.dcp.weights import weights_of
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.storage.input_file import InputFile

MASTER_WEIGHTS = re.compile(r"fp32_param|fp32_from|master|main_param", re.IGNORECASE)
"""Names of copies of the weights that an optimiser keeps in a wider type, and that replace them when it goes on."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Nothing, for a checkpoint of another format."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Name of a weight as its reader gives it -> name in DCP."""
    paths: Mapping[str, KeyPath] = field(default_factory=dict)
    """Name in DCP -> the keys of nested dicts that it stands for."""
    tensors: Mapping[str, ChunkedTensor] = field(default_factory=dict)
    """By their names in DCP."""
    values: Mapping[str, Stored] = field(default_factory=dict)
    files: Mapping[str, InputFile] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(end - start for start, end in (stored.range for stored in self._stored()))

    @property
    def has_master_weights(self) -> bool:
        return any(map(MASTER_WEIGHTS.search, self.tensors))

    def _stored(self) -> Iterator[Stored]:
        yield from (chunk.stored for tensor in self.tensors.values() for chunk in tensor.chunks)
        yield from self.values.values()


@contextmanager
def open_rest(checkpoint: Checkpoint) -> Iterator[Rest]:
    """Its files stay open meanwhile. Raises as `read_metadata`."""
    if checkpoint.format != "dcp":
        yield Rest()
        return
    with _open(checkpoint) as files:
        described = [file for file in files if file.path.name.endswith(METADATA_SUFFIX)]
        metadata = read_metadata(described)
        weights = weights_of(described[0].path, metadata).tensors
        names = {name: record.storage.key for name, record in weights.items()}
        ours = set(names.values())
        yield Rest(
            names=names,
            paths=metadata.paths,
            tensors={name: tensor for name, tensor in metadata.tensors.items() if name not in ours},
            values=metadata.values,
            files={file.path.name: file for file in files},
        )


@contextmanager
def _open(checkpoint: Checkpoint) -> Iterator[Sequence[InputFile]]:
    files: list[InputFile] = []
    try:
        for path in checkpoint.files:
            files.append(InputFile(path))
        yield files
    finally:
        for file in files:
            file.close()
