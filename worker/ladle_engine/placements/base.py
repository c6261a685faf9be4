"""What a placement is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ladle_engine.directions.buckets import Bucket
from ladle_engine.directions.checkpoint_directions import Directions
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.model.groups import Groups

REPLICATED, BY_PARAMETER, BY_NODE = "replicated", "by-parameter", "by-node"

BY_CHECKPOINT, SHARDED_MODEL = "by-checkpoint", "sharded-model"

PLACEMENTS = (REPLICATED, BY_PARAMETER, BY_NODE, BY_CHECKPOINT, SHARDED_MODEL)

OpenDirections = Callable[[Sequence[Bucket], slice], Directions]
"""Makes the directions of some rows over some buckets: the part that a placement gives to this rank."""


@dataclass(frozen=True, kw_only=True)
class PlacementInputs:
    """What a placement is made of, whichever it is."""

    parameters: Mapping[str, nn.Parameter]
    buckets: Sequence[Bucket]
    """Of the whole model."""
    open_directions: OpenDirections
    world: Collectives
    """All ranks."""
    count: int
    """How many rows there are: K for directions of checkpoints."""


@dataclass(kw_only=True)
class Measured:
    """What one backward pass says about a combination of rows."""

    loss: Tensor
    """This rank's share of it, a scalar; afterwards the sum over ranks, float64 on the CPU."""
    gradient_KG: Tensor
    """By the rows' weights, float64 on the CPU."""


class Placement(Protocol):
    """Fills the model with a combination of all rows, and projects its gradient on them."""

    buckets: Sequence[Bucket]
    """What this rank's directions cover."""
    directions: Directions

    def load_weights(self, weights_KG: Tensor, groups: Groups) -> None:
        """Collective: writes the combination into the model's parameters. `weights_KG` is float64, on the CPU."""
        ...

    def projecting(self, groups: Groups) -> AbstractContextManager[Measured]:
        """Inside, backward's gradients are projected as they arrive and freed, and the loss is put into what is
        yielded; at its end both have been summed over the ranks. Collective."""
        ...

    def close(self) -> None: ...
