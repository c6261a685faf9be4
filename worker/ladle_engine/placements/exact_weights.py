"""Mixtures as they will be written, `sum_i alpha_i w_i` in float64 from the files; several from one reading of them.

Shape suffixes: K checkpoints, M mixtures, C elements of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import pad

from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.directions.buckets import in_order_of_files, make_buckets, read_chunks
from ladle_engine.model.binding import Binding
from ladle_engine.model.local_shard import local_part
from ladle_engine.placements.memory_plan import USABLE_SHARE
from ladle_engine.placements.memory_probe import available_bytes
from ladle_engine.storage.read_ahead import read_ahead


class ExactWeights:
    """Fills this rank's elements of the model's parameters."""

    def __init__(self, checkpoints: CheckpointSet, binding: Binding) -> None:
        self._checkpoints = checkpoints.with_base
        self._parameters = binding.parameters
        self._awaited: list[Coefficients] = []
        self._held: dict[str, dict[str, Tensor]] = {}
        """Digest -> parameter -> float32, flat: mixtures that were read with another one."""

    @contextmanager
    def awaiting(self, mixtures: Sequence[Coefficients]) -> Iterator[None]:
        """Inside, these are going to be loaded, in this order: as many as fit into memory are read at once."""
        self._awaited = list(mixtures)
        try:
            yield
        finally:
            self._awaited.clear()
            self._held.clear()

    def load_awaited(self, mixture: Coefficients) -> bool:
        """Whether it was awaited: then it is loaded."""
        awaited = mixture.digest in self._held or mixture.digest in [each.digest for each in self._awaited]
        if awaited:
            self.load(mixture)
        return awaited

    @torch.no_grad()
    def load(self, mixture: Coefficients) -> None:
        if mixture.digest not in self._held:
            self._read(mixture)
        for name, values in self._held.pop(mixture.digest).items():
            local_part(self._parameters[name])[0].copy_(values)

    def _read(self, first: Coefficients) -> None:
        """`first`, and those that are awaited after it."""
        later = [each.digest for each in self._awaited]
        awaited = self._awaited[later.index(first.digest) + 1 :] if first.digest in later else []
        sizes = {name: local_part(parameter)[0].numel() for name, parameter in self._parameters.items()}
        room = USABLE_SHARE * available_bytes(torch.device("cpu")) / (4 * max(sum(sizes.values()), 1))
        mixtures = [first, *awaited][: max(int(room), 1)]
        for mixture in mixtures:
            self._held[mixture.digest] = {name: torch.empty(size) for name, size in sizes.items()}
        alpha_MKG = [self._all_rows(each) for each in mixtures]
        used = [k for k in range(len(self._checkpoints.names)) if any(bool(alpha[k].any()) for alpha in alpha_MKG)]
        with open_all(self._checkpoints) as opened:
            readers = [opened[k] for k in used]
            buckets = make_buckets(self._parameters, lambda name: tuple(each.group_of[name] for each in mixtures))
            buckets = in_order_of_files(buckets, readers[-1])
            chunks = ((bucket, *chunk) for bucket in buckets for chunk in read_chunks(readers, bucket, torch.float64))
            with read_ahead(chunks) as ready:
                for bucket, elements, weights_KC in ready:
                    name = bucket.pieces[0].name
                    columns = zip(mixtures, alpha_MKG, strict=True)
                    alpha_MK = torch.stack([alpha[used, each.group_of[name]] for each, alpha in columns])
                    summed_MC = alpha_MK @ weights_KC
                    for piece in bucket.cut(elements.start, elements.stop).pieces:
                        start = piece.start - local_part(self._parameters[piece.name])[1]
                        for mixture, summed_C in zip(mixtures, summed_MC, strict=True):
                            held = self._held[mixture.digest][piece.name][start : start + piece.length]
                            held.copy_(summed_C[piece.offset : piece.offset + piece.length])

    def _all_rows(self, mixture: Coefficients) -> Tensor:
        """Its weights with a row for the base, also where it has none of it."""
        missing = len(self._checkpoints.names) - len(mixture.checkpoints)
        return pad(mixture.alpha_KG, (0, 0, missing, 0))
