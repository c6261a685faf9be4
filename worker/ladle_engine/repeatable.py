"""Settings of torch under which a GPU gives the same numbers again, and as exactly as float32 says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, a CUDA device computes float32 in float32, with the same algorithms every time; a CPU does so anyway.

    cuDNN otherwise picks the algorithm that was quicker in a trial, which may add in another order on another run or
    rank; and TF32, its default for convolutions, rounds factors to 10 bits, so that shares of a batch would not add up
    to what the whole batch gives. Only torch's newer switches for TF32 are touched, which can always be read and put
    back; the older ones (`allow_tf32`) cannot be read meanwhile, as torch refuses a mixture.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    by_precision: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    algorithms = cudnn.deterministic, cudnn.benchmark
    precisions = [switch.fp32_precision for switch in by_precision]
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        for switch in by_precision:
            switch.fp32_precision = "ieee"
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = algorithms
        for switch, precision in zip(by_precision, precisions, strict=True):
            switch.fp32_precision = precision
