"""What of a tensor lies on this rank."""

from __future__ import annotations

import math

from torch import Tensor

from ladle_engine.distributed.sharded import is_dtensor


def local_part(tensor: Tensor) -> tuple[Tensor, int]:
    """What of a tensor lies on this rank, flat and writable, and where in the flattened whole it begins.

    FSDP2 shards along the first dimension, so a shard is one run of elements.
    """
    if not is_dtensor(tensor):
        return tensor.detach().view(-1), 0
    # As `torch.chunk` cuts: all ranks but the last have as many rows, and the last may have fewer or none.
    rows_per_rank = -(-len(tensor) // tensor.device_mesh.size())
    first_row = min(tensor.device_mesh.get_local_rank() * rows_per_rank, len(tensor))
    return tensor.to_local().detach().view(-1), first_row * math.prod(tensor.shape[1:])
