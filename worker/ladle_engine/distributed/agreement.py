"""An error that one rank alone met becomes the same error on all: otherwise they would wait for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.errors import EngineError


def raise_everywhere(own: EngineError | None, collectives: Collectives) -> None:
    """Collective: raises this rank's error or, where it has none, that of the first rank with one."""
    message = b"" if own is None else json.dumps([own.code, own.message]).encode()
    lengths = collectives.all_gather(torch.tensor([len(message)]), [1] * collectives.size).tolist()
    first = next((rank for rank, length in enumerate(lengths) if length), None)
    if first is None:
        return
    told = torch.zeros(lengths[first], dtype=torch.uint8)
    if collectives.rank == first:
        told.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
    code, text = json.loads(collectives.all_reduce(told).numpy().tobytes())
    raise own or EngineError(code, text)


@contextmanager
def together(collectives: Collectives) -> Iterator[None]:
    """Collective, which the block must not be: an `EngineError` of any rank's block is raised on all."""
    error: EngineError | None = None
    try:
        yield
    except EngineError as own:
        error = own
    raise_everywhere(error, collectives)
