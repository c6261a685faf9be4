"""Rows in host memory that stream to the GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ladle_engine.directions.formats import BLOCK, row_bytes
from ladle_engine.directions.resident_rows import ResidentRows

OFFLOAD_CHUNK_BYTES = 64 << 20
"""What an offloaded piece copies at once, for all its rows. The device holds two of these while they are used. A power
of two, because torch rounds pinned allocations up to one."""


class OffloadedRows:
    """Rows in host memory, which stream to the device in chunks: while one is used, the next is copied."""

    def __init__(self, precision: str, count: int, length: int, device: torch.device) -> None:
        self._device = device
        self._count = count
        bytes_per_block = max(1, count * row_bytes(precision, BLOCK))
        self._chunk_length = max(1, OFFLOAD_CHUNK_BYTES // bytes_per_block) * BLOCK
        self._staging = _staging_buffers_of(device, max(OFFLOAD_CHUNK_BYTES, bytes_per_block))
        self._chunks = [
            ResidentRows.allocate(
                precision,
                count,
                min(self._chunk_length, length - start),
                torch.device("cpu"),
                pin=device.type == "cuda",
            )
            for start in range(0, length, self._chunk_length)
        ]

    def fill(self, start: int, rows_NC: Tensor) -> None:
        done = 0
        while done < rows_NC.shape[1]:
            index, within = divmod(start + done, self._chunk_length)
            chunk = self._chunks[index]
            part = min(chunk.length - within, rows_NC.shape[1] - done)
            chunk.fill(within, rows_NC[:, done : done + part])
            done += part

    @torch.no_grad()
    def project(self, gradient_P: Tensor) -> Tensor:
        projected_N = gradient_P.new_zeros(self._count)
        for elements, rows in self._stream():
            projected_N += rows.project(gradient_P[elements])
        return projected_N

    @torch.no_grad()
    def expand_into(self, out_P: Tensor, weights_N: Tensor) -> None:
        for elements, rows in self._stream():
            rows.expand_into(out_P[elements], weights_N)

    def close(self) -> None:
        self._chunks.clear()
        self._staging = None

    def _stream(self) -> Iterator[tuple[slice, ResidentRows]]:
        """`(elements, rows on the device)`, chunk by chunk. The rows are good until the next chunk is asked for."""
        arriving = self._chunks if self._staging is None else self._staging.prefetched(self._chunks)
        for index, rows in enumerate(arriving):
            start = index * self._chunk_length
            yield slice(start, start + rows.length), rows


class _StagingBuffers:
    """Two pieces of a GPU's memory in which chunks from the host arrive in turn.

    All rows of the device share them: a copy waits only for what used its piece last, so it runs beside whatever else
    is queued, be that another bucket's product or backward itself.
    """

    def __init__(self, device: torch.device, size_bytes: int) -> None:
        self._device = device
        self._pieces = [torch.empty(size_bytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._copying = torch.cuda.Stream(device)
        # The pieces may be memory that work already queued still reads.
        ready = torch.cuda.current_stream(device).record_event()
        self._free = [ready, ready]
        """By piece: what a copy into it must wait for."""
        self._next = 0

    @property
    def size_bytes(self) -> int:
        return len(self._pieces[0])

    def prefetched(self, chunks: Sequence[ResidentRows]) -> Iterator[ResidentRows]:
        """Copies of pinned `chunks`, one ahead of use."""
        computing = torch.cuda.current_stream(self._device)
        arriving = [self._copy(chunk) for chunk in chunks[:2]]
        try:
            for after in range(2, len(chunks) + 2):
                piece, rows, arrived = arriving[0]
                computing.wait_event(arrived)
                yield rows
                self._free[piece] = computing.record_event()
                arriving.pop(0)
                if after < len(chunks):
                    arriving.append(self._copy(chunks[after]))
        finally:
            # Left early: what is on its way must land before the piece, or its memory, is used for something else.
            for piece, _, arrived in arriving:
                computing.wait_event(arrived)
                self._free[piece] = computing.record_event()

    def _copy(self, chunk: ResidentRows) -> tuple[int, ResidentRows, torch.cuda.Event]:
        """The piece, the rows in it, and when they are there."""
        piece, self._next = self._next, 1 - self._next
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(self._free[piece])
            return piece, chunk.copied_into(self._pieces[piece]), self._copying.record_event()


_staging_buffers: WeakValueDictionary[torch.device, _StagingBuffers] = WeakValueDictionary()
"""By device, for as long as rows use it."""


def _staging_buffers_of(device: torch.device, size_bytes: int) -> _StagingBuffers | None:
    """None for a CPU, whose rows are where they are used."""
    if device.type != "cuda":
        return None
    staging = _staging_buffers.get(device)
    if staging is None or staging.size_bytes < size_bytes:
        staging = _staging_buffers[device] = _StagingBuffers(device, size_bytes)
    return staging
