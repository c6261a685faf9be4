"""The reading that a job begins with: one pass over all files checks the weights, hashes them, measures the directions
and fills them.

Shape suffixes: K checkpoints, C elements of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ladle_engine.checkpoints.check import (
    check_tensor,
    refuse_non_finite,
    rows_differ,
)
from ladle_engine.checkpoints.chunks import Piece, differs, same_tensors
from ladle_engine.checkpoints.hashing import HashedReaders
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet, TensorReader
from ladle_engine.directions.buckets import Bucket, num_chunks
from ladle_engine.directions.checkpoint_directions import CentredChunk, Keep, fill_directions
from ladle_engine.distributed.agreement import raise_everywhere
from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.model.binding import Binding
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.subspace.geometry import Geometry, GeometrySums


@dataclass(frozen=True, kw_only=True)
class Copies:
    """How many ranks read the same elements, and which of them this one is: each adds up its share."""

    count: int = 1
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class FirstRead:
    """What the first reading found, the same on every rank."""

    geometry: Geometry
    differ: bool
    """Whether the checkpoints are not all the same."""
    digests: Mapping[Path, str]
    """SHA-256 of every weight file."""


class FirstReading:
    """`fill` is called by whoever needs directions, or `read_share` where nobody does; then `conclude` brings the ranks
    together."""

    def __init__(
        self,
        checkpoints: CheckpointSet,
        binding: Binding,
        on_event: ProgressCallback,
        collectives: Collectives | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._rows = checkpoints.with_base
        self._has_base = checkpoints.base is not None
        self._binding = binding
        self._on_event = on_event
        self._collectives = collectives or SingleProcess()
        self._device = device or torch.device("cpu")
        self._files = [path for checkpoint in self._rows.checkpoints for path in checkpoint.files]
        self._sums: GeometrySums
        self._differ: bool
        self._digests: dict[Path, str]
        self._error: EngineError | None
        self._begin()

    @property
    def is_read(self) -> bool:
        return self._is_read

    def fill(self, buckets: Sequence[Bucket], keep: Keep, copies: Copies) -> None:
        """Reads this rank's buckets.

        What is wrong with the checkpoints is kept for `conclude`, where all ranks hear of it.
        """
        self._begin()
        own_files = self._files[self._collectives.rank :: self._collectives.size]
        tied = {*self._binding.aliases, *self._binding.aliases.values()}
        try:
            with open_all(self._rows) as readers:
                hashed = HashedReaders(readers, own_files, tied)
                self._read(readers, hashed, buckets, keep, copies)
                self._check_others(readers)
                self._digests = hashed.digests()
                self._check_ties(readers, hashed, own_files)
        except EngineError as error:
            self._error = error
        self._is_read = True

    def read_share(self) -> None:
        """Reads this rank's share of the tensors, for a job that keeps no directions."""
        names = list(self._binding.parameters)[self._collectives.rank :: self._collectives.size]
        pieces = [Piece(name=name, start=0, length=self._checkpoints.tensors[name].numel, offset=0) for name in names]
        self.fill([Bucket(pieces=(piece,)) for piece in pieces if piece.length], lambda index, chunk: None, Copies())

    def conclude(self) -> FirstRead:
        """Collective. Raises the `EngineError` that any rank met: non-finite-weights, mismatched-checkpoints (tied
        tensors that differ) or inputs-changed."""
        raise_everywhere(self._error, self._collectives)
        differ = self._collectives.all_reduce(torch.tensor([float(self._differ)]))
        return FirstRead(
            geometry=self._sums.over_ranks(self._collectives), differ=bool(differ), digests=self._all_digests()
        )

    def _begin(self) -> None:
        """Anew: an attempt that ran out of memory ended within the files."""
        self._sums = GeometrySums(
            self._binding, len(self._checkpoints.checkpoints), self._device, has_base=self._has_base
        )
        self._differ = False
        self._digests = {}
        self._error = None
        self._is_read = False

    def _read(
        self,
        readers: Sequence[TensorReader],
        hashed: HashedReaders,
        buckets: Sequence[Bucket],
        keep: Keep,
        copies: Copies,
    ) -> None:
        pace = Pace(self._on_event, "check", num_chunks(buckets, len(readers)), unit="bytes")
        number = read_bytes = 0

        def see(index: int, chunk: CentredChunk) -> None:
            nonlocal number, read_bytes
            pieces = buckets[index].cut(chunk.elements.start, chunk.elements.stop).pieces
            self._check(readers, pieces, chunk)
            if number % copies.count == copies.number:
                self._sums.add(pieces, chunk)
            keep(index, chunk)
            number += 1
            read_bytes += sum(self._checkpoints.tensors[piece.name].dtype.itemsize * piece.length for piece in pieces)
            pace.step(number, amount=len(readers) * read_bytes)

        fill_directions(hashed.readers, buckets, see, has_base=self._has_base)

    def _check(self, readers: Sequence[TensorReader], pieces: Sequence[Piece], chunk: CentredChunk) -> None:
        # A NaN or an infinity of any checkpoint is in the mean of all.
        total = chunk.centre_C.sum() if chunk.base_C is None else chunk.base_C.sum()
        if not math.isfinite(float(total)):
            for piece in pieces:
                refuse_non_finite(self._rows, readers, piece.name)
        self._differ = self._differ or rows_differ(chunk.directions_KC)

    def _check_others(self, readers: Sequence[TensorReader]) -> None:
        """Statistics and counters, which are small, and this rank's share of what is left out of the average."""
        own = readers[self._has_base :]
        left_out = list(self._binding.constants)[self._collectives.rank :: self._collectives.size]
        for name in (*self._binding.statistics, *self._binding.unused, *left_out):
            if self._checkpoints.tensors[name].is_averaged:
                self._differ = check_tensor(self._checkpoints, own, name) or self._differ
                if self._has_base:
                    refuse_non_finite(self._rows, readers, name)
        self._differ = self._differ or any(differs(name, own) for name in self._binding.counters)

    def _check_ties(self, readers: Sequence[TensorReader], hashed: HashedReaders, own_files: Sequence[Path]) -> None:
        """What the model ties must be equal in every file, or averaging would silently drop one of the two."""
        for number, (checkpoint, reader) in enumerate(zip(self._rows.checkpoints, readers, strict=True)):
            if checkpoint.files[0] not in own_files:
                continue
            for alias, name in self._binding.aliases.items():
                if not all(self._checkpoints.has_own(reader, each) for each in (alias, name)):
                    continue
                one, other = (hashed.tensor_digest(number, each) for each in (alias, name))
                if (one is None or one != other) and not same_tensors((reader, alias), (reader, name)):
                    raise CheckpointError(
                        "mismatched-checkpoints",
                        f"`{alias}` must equal `{name}` because the model ties them, but in `{checkpoint.name}` they "
                        f"differ.",
                    )

    def _all_digests(self) -> dict[Path, str]:
        """Collective: those of all ranks."""
        table = torch.zeros(len(self._files), 32, dtype=torch.uint8)
        for row, path in zip(table, self._files, strict=True):
            if path in self._digests:
                row.copy_(torch.frombuffer(bytearray.fromhex(self._digests[path]), dtype=torch.uint8))
        rows = self._collectives.all_reduce(table)
        return {path: row.numpy().tobytes().hex() for path, row in zip(self._files, rows, strict=True)}


def measure(
    checkpoints: CheckpointSet,
    binding: Binding,
    on_event: ProgressCallback,
    collectives: Collectives | None = None,
    device: torch.device | None = None,
) -> Geometry:
    """Collective: one pass over all files, each rank over its share of the tensors. Raises as `conclude`."""
    reading = FirstReading(checkpoints, binding, on_event, collectives, device)
    reading.read_share()
    return reading.conclude().geometry
