"""Reading ahead: while blocks are summed, a thread of its own brings the next ones from the disk into memory.

Checkpoints are memory-mapped: whoever is the first to touch a page waits for the disk. This thread is, by one byte of
every page, one checkpoint's block after the other's, as disks like it.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

AHEAD_BYTES = 256 << 20
"""Of all checkpoints together, and at least one block of each. They lie in the page cache, which gives way."""


class ReadAhead:
    """Runs in front of somebody who goes through the same tensors, block by block."""

    def __init__(self, most: int) -> None:
        self._most = most
        """Blocks in front."""
        self._read = self._taken = 0
        self._is_over = False
        self._changed = threading.Condition()

    def follow(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Passes on `blocks`, each made when what it is made from has been read."""
        self._wait_for_next()
        for block in blocks:
            yield block
            with self._changed:
                self._taken += 1
                self._changed.notify()
            # After the last one, for the first of the tensor that comes next.
            self._wait_for_next()

    def run(self, sources: Iterable[Sequence[Tensor]], block_elements: int) -> None:
        """Returns when all is read, or once it is over."""
        try:
            for tensors in sources:
                numel = tensors[0].numel() if tensors else 0
                for start in range(0, numel, block_elements):
                    for tensor in tensors:
                        # One that is not contiguous would be copied here; it is read when it is needed.
                        if self._is_over:
                            return
                        if tensor.is_contiguous():
                            part = tensor.view(-1)[start : start + block_elements]
                            part.view(torch.uint8)[:: mmap.PAGESIZE].sum()
                    with self._changed:
                        self._read += 1
                        self._changed.notify()
                        self._changed.wait_for(lambda: self._read - self._taken < self._most or self._is_over)
        finally:
            self.end()

    def end(self) -> None:
        """Nobody waits any more, and nothing more is read."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def _wait_for_next(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._read > self._taken or self._is_over)


@contextmanager
def read_ahead(sources: Iterable[Sequence[Tensor]], block_elements: int, block_bytes: int) -> Iterator[ReadAhead]:
    """Reads, until the block ends, what `sources` yields: for one tensor after the other, all that it is made from, in
    flat parts of so many elements. `block_bytes` is what all those of one part have at most.

    Raises what reading raised, unless the block raised before.
    """
    ahead = ReadAhead(max(AHEAD_BYTES // block_bytes, 1))
    with ThreadPoolExecutor(max_workers=1) as thread:
        reading = thread.submit(ahead.run, sources, block_elements)
        try:
            yield ahead
        finally:
            ahead.end()
        reading.result()
