"""Running out of memory: known by what torch says, agreed on by all ranks, and told as an error with its own code."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.errors import EngineError

T = TypeVar("T")

OUT_OF_MEMORY_WORDS = (
    *("allocate memory", "bad_alloc", "can't start new thread"),
    *("CUDA error: out of memory", "STATUS_ALLOC_FAILED"),
)
"""Of a CPU's allocators and Python's threads, of CUDA's for pinned memory, and of its libraries: plain errors, known by
their words alone."""

RELIEF = "Give a smaller task option `batch_size`, or more ranks with `placement: sharded-model`."


def is_out_of_memory(error: BaseException) -> bool:
    """torch says so by a class of its own for its allocator on a GPU, and only in words elsewhere."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


def fits_everywhere(attempt: Callable[[], T], collectives: Collectives) -> tuple[T | None, bool]:
    """Collective, which `attempt` must not be: what it gives, and whether it ran out of memory on no rank."""
    made: T | None = None
    failed = torch.zeros(1)
    try:
        made = attempt()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failed += 1
    return made, not float(collectives.all_reduce(failed))


@contextmanager
def named_out_of_memory() -> Iterator[None]:
    """Inside, running out of memory on this rank becomes an `EngineError` with that code."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise EngineError(
            "out-of-memory",
            f"The job must fit into free memory, but this rank ran out of it: {error} {RELIEF}",
        ) from error
