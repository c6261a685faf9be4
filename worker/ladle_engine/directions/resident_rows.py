"""Rows: N directions of P elements of one tensor, kept at a precision tier, projected on and combined.

Shape suffixes: N rows, P elements of one tensor, C elements of one chunk (C <= P), B blocks of BLOCK elements, Q stored
codes of one row, R rows of one group.

Every row is padded with zeros to whole blocks. int8 and int4 keep, for each block, a bfloat16 scale and integer codes:
`element = scale * code`. Two int4 codes share a byte: the low half of byte j of a block is element j, the high half
element j + 32.

On a GPU with Triton, `kernels.py` reads what is stored once. Elsewhere, and where a probe finds that the kernels do not
run, a chunk small enough for the cache is decoded to float32 and multiplied there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine.directions.formats import BLOCK, format_of, num_blocks
from ladle_engine.distributed.out_of_memory import is_out_of_memory

FLOAT32_CHUNK_LENGTH = 1 << 18
"""Elements of each float32 row that one matrix product takes: sums over millions of elements in one go lose digits
(1e-4 at three million with MKL), and shorter ones are slower."""

DECODED_ELEMENTS = 1 << 20
"""Elements decoded to float32 at once. 4 MiB stay in a CPU's last-level cache; smaller chunks lose more to torch's cost
per call than a nearer cache gains (measured, `benchmarks/rows.py`)."""

GPU_DECODED_ELEMENTS = 1 << 24
"""The same on a GPU without Triton, where each call costs more."""

CHUNK_ROWS = 16
"""Rows decoded at once: with few rows, a chunk is long runs of memory, which is what prefetching needs."""


class ResidentRows:
    """Rows in the memory of the device that uses them."""

    def __init__(self, precision: str, length: int, codes_NQ: Tensor, scales_NB: Tensor | None) -> None:
        self._precision = precision
        self._format = format_of(precision)
        self._length = length
        self.codes_NQ = codes_NQ
        self.scales_NB = scales_NB

    @classmethod
    def allocate(
        cls, precision: str, count: int, length: int, device: torch.device, *, pin: bool = False
    ) -> ResidentRows:
        form, blocks = format_of(precision), num_blocks(length)
        codes_NQ = torch.zeros(count, blocks * form.codes_per_block, dtype=form.dtype, device=device, pin_memory=pin)
        scales_NB = None
        if form.largest_code is not None:
            scales_NB = torch.zeros(count, blocks, dtype=torch.bfloat16, device=device, pin_memory=pin)
        return cls(precision, length, codes_NQ, scales_NB)

    @property
    def length(self) -> int:
        return self._length

    def fill(self, start: int, rows_NC: Tensor) -> None:
        assert start % BLOCK == 0
        assert start + rows_NC.shape[1] <= self._length
        assert rows_NC.shape[1] % BLOCK == 0 or start + rows_NC.shape[1] == self._length
        if self._format.largest_code is None:
            self.codes_NQ[:, start : start + rows_NC.shape[1]].copy_(rows_NC)
            return
        assert self.scales_NB is not None
        blocks = slice(start // BLOCK, start // BLOCK + num_blocks(rows_NC.shape[1]))
        codes_NB64, scales_NB = _quantise(
            rows_NC.to(device=self.codes_NQ.device, dtype=torch.float32), self._format.largest_code
        )
        if self._format.codes_per_block < BLOCK:
            low, high = codes_NB64.chunk(2, dim=2)
            codes_NB64 = (high << 4) | (low & 0x0F)
        self._codes(blocks).copy_(codes_NB64)
        self.scales_NB[:, blocks] = scales_NB

    @torch.no_grad()
    def project(self, gradient_P: Tensor) -> Tensor:
        if (kernels := _kernels(self._precision, self.codes_NQ.device)) is not None:
            projected_N: Tensor = kernels.project(self._precision, self.codes_NQ, self.scales_NB, gradient_P)
            return projected_N
        return self.project_by_torch(gradient_P)

    @torch.no_grad()
    def expand_into(self, out_P: Tensor, weights_N: Tensor) -> None:
        if out_P.is_contiguous() and (kernels := _kernels(self._precision, self.codes_NQ.device)) is not None:
            kernels.expand_into(self._precision, self.codes_NQ, self.scales_NB, out_P, weights_N)
            return
        self.expand_into_by_torch(out_P, weights_N)

    def project_by_torch(self, gradient_P: Tensor) -> Tensor:
        """`project` without Triton, on any device."""
        projected_N = gradient_P.new_zeros(len(self.codes_NQ))
        if self._precision == "float32":
            for elements in self._float32_chunks():
                torch.addmv(projected_N, self.codes_NQ[:, elements], gradient_P[elements], out=projected_N)
            return projected_N
        scratch = self._scratch()
        for blocks, elements in self._chunks():
            gradient_C = self._in_stored_order(_padded(gradient_P[elements]))
            for group in self._groups():
                part_R = projected_N[group]
                torch.addmv(part_R, self._decode(group, blocks, scratch), gradient_C, out=part_R)
        return projected_N

    def expand_into_by_torch(self, out_P: Tensor, weights_N: Tensor) -> None:
        """`expand_into` without Triton, on any device."""
        if self._precision == "float32":
            self._expand_float32(out_P, weights_N)
            return
        scratch = self._scratch()
        for blocks, elements in self._chunks():
            sum_C = out_P.new_zeros((blocks.stop - blocks.start) * BLOCK)
            for group in self._groups():
                torch.addmv(sum_C, self._decode(group, blocks, scratch).T, weights_N[group], out=sum_C)
            out_C = out_P[elements]
            out_C += self._in_given_order(sum_C)[: len(out_C)]

    def _expand_float32(self, out_P: Tensor, weights_N: Tensor) -> None:
        # A single checkpoint has one row: reading all of them would take N times as long. A GPU is not asked, because
        # it would be waited for.
        used = weights_N.nonzero().flatten().tolist() if weights_N.device.type == "cpu" else []
        if len(used) == 1:
            out_P.add_(self.codes_NQ[used[0], : self._length], alpha=float(weights_N[used[0]]))
            return
        for elements in self._float32_chunks():
            out_C = out_P[elements]
            torch.addmv(out_C, self.codes_NQ[:, elements].T, weights_N, out=out_C)

    def copied_into(self, memory: Tensor) -> ResidentRows:
        """The same rows in the front of other memory (uint8); from pinned memory, without waiting for the copy."""
        codes_NQ = _front_of(memory, self.codes_NQ).copy_(self.codes_NQ, non_blocking=True)
        scales_NB = None
        if self.scales_NB is not None:
            scales_NB = _front_of(memory[self.codes_NQ.nbytes :], self.scales_NB)
            scales_NB.copy_(self.scales_NB, non_blocking=True)
        return ResidentRows(self._precision, self._length, codes_NQ, scales_NB)

    def close(self) -> None:
        self.codes_NQ = self.codes_NQ.new_empty(0)
        self.scales_NB = None

    def _codes(self, blocks: slice) -> Tensor:
        """[N, B, codes_per_block]"""
        width = self._format.codes_per_block
        chunk_NQ = self.codes_NQ[:, blocks.start * width : blocks.stop * width]
        return chunk_NQ.view(len(chunk_NQ), blocks.stop - blocks.start, width)

    def _decode(self, group: slice, blocks: slice, scratch: Tensor) -> Tensor:
        """float32 [R, C], in the stored order; it lives in `scratch`."""
        codes_RBQ = self._codes(blocks)[group]
        rows, count, width = codes_RBQ.shape
        decoded = scratch[: rows * count * BLOCK].view(rows, BLOCK // width, count, width)
        if self._format.codes_per_block < BLOCK:
            decoded[:, 0].copy_((codes_RBQ << 4) >> 4)
            decoded[:, 1].copy_(codes_RBQ >> 4)
        else:
            decoded[:, 0].copy_(codes_RBQ)
        if self.scales_NB is not None:
            decoded *= self.scales_NB[group, blocks].float()[:, None, :, None]
        return decoded.view(rows, count * BLOCK)

    def _in_stored_order(self, values_C: Tensor) -> Tensor:
        """int4 is decoded as all low halves, then all high halves: reordering one gradient is cheaper than N rows."""
        if self._format.codes_per_block == BLOCK:
            return values_C
        return values_C.view(-1, 2, BLOCK // 2).transpose(0, 1).reshape(-1)

    def _in_given_order(self, values_C: Tensor) -> Tensor:
        """Undoes `_in_stored_order`."""
        if self._format.codes_per_block == BLOCK:
            return values_C
        return values_C.view(2, -1, BLOCK // 2).transpose(0, 1).reshape(-1)

    def _chunks(self) -> Iterator[tuple[slice, slice]]:
        """`(blocks, elements)` of each chunk of columns."""
        step = self._chunk_blocks()
        for first in range(0, num_blocks(self._length), step):
            last = min(first + step, num_blocks(self._length))
            yield slice(first, last), slice(first * BLOCK, min(last * BLOCK, self._length))

    def _float32_chunks(self) -> Iterator[slice]:
        for start in range(0, self._length, FLOAT32_CHUNK_LENGTH):
            yield slice(start, min(start + FLOAT32_CHUNK_LENGTH, self._length))

    def _groups(self) -> Iterator[slice]:
        for first in range(0, len(self.codes_NQ), CHUNK_ROWS):
            yield slice(first, min(first + CHUNK_ROWS, len(self.codes_NQ)))

    def _chunk_blocks(self) -> int:
        rows = max(1, min(CHUNK_ROWS, len(self.codes_NQ)))
        elements = DECODED_ELEMENTS if self.codes_NQ.device.type == "cpu" else GPU_DECODED_ELEMENTS
        return max(1, elements // rows // BLOCK)

    def _scratch(self) -> Tensor:
        """Room for one decoded chunk."""
        blocks = min(self._chunk_blocks(), num_blocks(self._length))
        rows = min(CHUNK_ROWS, len(self.codes_NQ))
        return torch.empty(rows * blocks * BLOCK, dtype=torch.float32, device=self.codes_NQ.device)


def _quantise(rows_NC: Tensor, largest_code: int) -> tuple[Tensor, Tensor]:
    """int8 [N, B, BLOCK] and bfloat16 [N, B]: codes and scales of float32 rows.

    The codes are those for the rounded scale, so that its rounding adds no error. A block of zeros has scale 0.
    """
    padded_NC = F.pad(rows_NC, (0, -rows_NC.shape[1] % BLOCK))
    blocks_NB64 = padded_NC.reshape(len(padded_NC), padded_NC.shape[1] // BLOCK, BLOCK)
    # A scale so large that the largest code times it overflows would make infinities; 2^-8 leaves room for rounding.
    limit = torch.finfo(torch.float32).max / largest_code * (1 - 2**-8)
    scales_NB = (blocks_NB64.abs().amax(dim=2) / largest_code).clamp_(max=limit).to(torch.bfloat16)
    scale_NB1 = scales_NB.float()[:, :, None]
    codes_NB64 = torch.where(scale_NB1 > 0, blocks_NB64 / scale_NB1, 0.0).round_()
    return codes_NB64.clamp_(-largest_code, largest_code).to(torch.int8), scales_NB


def _front_of(memory: Tensor, like: Tensor) -> Tensor:
    """As much of `memory` as `like` takes, in its shape. Codes fill whole blocks, so what follows them is aligned."""
    return memory[: like.nbytes].view(like.dtype).view(like.shape)


def _padded(values_C: Tensor) -> Tensor:
    """With zeros, to whole blocks."""
    missing = -len(values_C) % BLOCK
    return F.pad(values_C, (0, missing)) if missing else values_C


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """Whether the kernels run for a tier on a device."""

    kernels: Any
    """The module; None where torch does the work."""
    failure: str | None = None
    """Why they are there and do not run."""


def kernels_failure(precision: str, device: torch.device) -> str | None:
    """Why Triton's kernels cannot be used where they should be, in words; None where they can, and without Triton."""
    return _probe(precision, device).failure


def _kernels(precision: str, device: torch.device) -> Any:
    """The module `kernels` where it runs, else None."""
    return _probe(precision, device).kernels


@cache
def _probe(precision: str, device: torch.device) -> _Probe:
    """Triton's being installed says little: it starts a C compiler at run time, loads what that made, and compiles for
    the device. So the kernels are tried once, on a few numbers, against torch."""
    if device.type != "cuda":
        return _Probe(kernels=None)
    try:
        kernels = _installed_kernels()
        if kernels is not None:
            _compare_with_torch(kernels, precision, device)
    except Exception as error:  # whatever Triton or its compilers raise
        if is_out_of_memory(error):
            raise
        return _Probe(kernels=None, failure=f"{type(error).__name__}: {_first_line(error)}")
    return _Probe(kernels=kernels)


def _installed_kernels() -> Any:
    """The module `kernels`; None without Triton."""
    return (
        None
        if importlib.util.find_spec("triton") is None
        else importlib.import_module("ladle_engine.directions.kernels")
    )


@torch.no_grad()
def _compare_with_torch(kernels: Any, precision: str, device: torch.device) -> None:
    """Raises `AssertionError` when a kernel and torch differ by more than rounding."""
    count, length = 3, 2 * BLOCK + 1
    rows = ResidentRows.allocate(precision, count, length, device)
    rows.fill(0, torch.linspace(-1, 2, count * length).view(count, length))
    gradient_P, weights_N = torch.linspace(2, -1, length, device=device), torch.linspace(1, 2, count, device=device)
    projected_N = kernels.project(precision, rows.codes_NQ, rows.scales_NB, gradient_P)
    torch.testing.assert_close(projected_N, rows.project_by_torch(gradient_P), atol=1e-3, rtol=1e-4)
    out_P, expected_P = torch.ones(length, device=device), torch.ones(length, device=device)
    kernels.expand_into(precision, rows.codes_NQ, rows.scales_NB, out_P, weights_N)
    rows.expand_into_by_torch(expected_P, weights_N)
    torch.testing.assert_close(out_P, expected_P, atol=1e-3, rtol=1e-4)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
