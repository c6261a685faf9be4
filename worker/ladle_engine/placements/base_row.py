"""The base's row of a combination: it has no direction in memory, and is added from its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.chunks import BLOCK_ELEMENTS
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.directions.buckets import Bucket
from ladle_engine.directions.checkpoint_directions import Directions
from ladle_engine.model.groups import Groups
from ladle_engine.model.local_shard import local_part
from ladle_engine.placements.base import Measured, Placement


@torch.no_grad()
def add_base(base: Checkpoint, parameters: Mapping[str, nn.Parameter], weights_G: Tensor, groups: Groups) -> None:
    """Adds `weights_G * base` to the elements that this rank has, after a placement has filled in the other rows."""
    with open_checkpoint(base) as reader:
        for name in sorted(parameters, key=reader.position):
            local, start = local_part(parameters[name])
            weight = float(weights_G[groups.of[name]])
            if weight == 0.0:
                continue
            for first in range(0, len(local), BLOCK_ELEMENTS):
                part = local[first : first + BLOCK_ELEMENTS]
                stored = torch.empty(len(part), dtype=reader.tensors()[name].dtype)
                reader.read_into(name, start + first, stored)
                part.add_(stored.to(part), alpha=weight)


class OnBase:
    """A placement whose combinations all have the same share of the base: gradients do not see what is constant."""

    def __init__(
        self, inner: Placement, base: Checkpoint, parameters: Mapping[str, nn.Parameter], weights_G: Tensor
    ) -> None:
        self.buckets: Sequence[Bucket] = inner.buckets
        self.directions: Directions = inner.directions
        self._inner = inner
        self._base = base
        self._parameters = parameters
        self._weights_G = weights_G

    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        self._inner.load_weights(weights_KG, groups)
        add_base(self._base, self._parameters, self._weights_G, groups)

    def projecting(self, groups: Groups) -> AbstractContextManager[Measured]:
        return self._inner.projecting(groups)

    def close(self) -> None:
        self._inner.close()
