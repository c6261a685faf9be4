"""Settings of torch under which a GPU gives the same numbers again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Inside, cuDNN takes the same algorithms every time on a CUDA device; a CPU does so anyway.

    It otherwise picks the one that was quicker in a trial, which may add in another order on another run. TF32 stays
    what the process has set: float32 convolutions without it are several times slower.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
