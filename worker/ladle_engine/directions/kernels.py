"""Triton kernels behind `rows.py`: rows times a gradient and weighted sums of rows, in one pass over what is stored.

Shape suffixes: N rows, P elements of one tensor, B blocks of 64 elements, Q stored codes, S spans, U units, V codes of
one unit. A unit is the 16 bytes that one thread loads at once: 4, 8, 16 or (int4) 32 elements, always within one block.

The rows are read once, decoded in registers and accumulated in float32; nothing of size N x P is written. The sums are
taken in a fixed order (`project` in two stages, without atomics), so that a run can be repeated bit for bit.

Only imported when rows lie on a GPU, or by a test under Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 4096
"""About this many programs keep each of 132 multiprocessors busy to the end: 8 at once, four times over."""

MOST_STEPS = 16
"""Tiles that one program of `project` sums before it writes; more would save nothing."""

UNITS = 128
"""Units of a row that a program reads at once: one for each of its threads, so that sums over rows stay in a thread."""

WARPS = UNITS // 32

# Rows of a tile share the gradient's loads: the fewer bytes an element takes, the more rows it needs for the gradient
# to stay the smaller part of what passes through the second-level cache. Each thread asks for 64 bytes or more at once.
PROJECT_ROWS = {"float32": 4, "bfloat16": 8, "int8": 8, "int4": 16}
EXPAND_ROWS = {"float32": 8, "bfloat16": 8, "int8": 8, "int4": 8}

PROJECT_UNIT_BYTES = {"float32": 16, "bfloat16": 16, "int8": 16, "int4": 8}
EXPAND_UNIT_BYTES = {"float32": 16, "bfloat16": 16, "int8": 16, "int4": 16}

MAGIC = (0x4B000008, 0x4B000080)
"""The bits of 2^23 + 8 and 2^23 + 128. A code becomes a float without a conversion, of which a GPU does few at once:
flipping its sign bit adds the offset, the bits of 2^23 go in front, and a subtraction, which is exact, leaves the code.
They are arguments of the kernels: `(x & constant) ^ register` is one instruction and with two constants it is two."""


@triton.jit
def _from_byte(code, magic):
    """float32: signed bytes."""
    bits = (code.to(tl.int32) & 0xFF) ^ magic
    return bits.to(tl.float32, bitcast=True) - 8388736.0  # 2^23 + 128


@triton.jit
def _from_low_nibble(code, magic):
    """float32: the signed low half of bytes."""
    bits = (code.to(tl.int32) & 0x0F) ^ magic
    return bits.to(tl.float32, bitcast=True) - 8388616.0  # 2^23 + 8


@triton.jit
def _from_high_nibble(code, magic):
    """float32: 16 times the signed high half of bytes."""
    bits = (code.to(tl.int32) & 0xF0) ^ magic
    return bits.to(tl.float32, bitcast=True) - 8388736.0  # 2^23 + 16 * 8


@triton.jit
def _elements(unit, V: tl.constexpr, TIER: tl.constexpr):
    """int64 [U, V]: which element each code is; for int4, which element its low half is (the high half's is 32 on)."""
    j = tl.arange(0, V)[None, :]
    if TIER == "int4":
        PER_BLOCK: tl.constexpr = 32 // V
        return (unit // PER_BLOCK * 64 + unit % PER_BLOCK * V)[:, None] + j
    return (unit * V)[:, None] + j


@triton.jit
def _load(codes, scales, n, unit, count, units, V: tl.constexpr, TIER: tl.constexpr):
    """Codes [N, U, V] and their scales, float32 [N, U]; 0 outside."""
    inside = (n < count)[:, None] & (unit < units)[None, :]
    row = n.to(tl.int64)[:, None]
    at = (row * units + unit[None, :])[:, :, None] * V + tl.arange(0, V)[None, None, :]
    code = tl.load(codes + at, mask=inside[:, :, None], other=0, eviction_policy="evict_first")
    if TIER == "int8" or TIER == "int4":
        PER_BLOCK: tl.constexpr = (64 if TIER == "int8" else 32) // V
        at_scale = row * (units // PER_BLOCK) + (unit // PER_BLOCK)[None, :]
        return code, tl.load(scales + at_scale, mask=inside, other=0.0).to(tl.float32)
    return code, inside.to(tl.float32)


@triton.jit
def _project(
    codes, scales, gradient, partial_SN, count, length, units, steps, magic_8, magic_128,
    TIER: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """partial_SN[s, n] = the part of `rows[n] @ gradient` in span `s`: `steps` tiles of UNITS units."""
    row_tiles = tl.cdiv(count, ROWS)
    # Programs next to each other read the same gradient, for different rows.
    span = (tl.program_id(0) // row_tiles).to(tl.int64)
    n = (tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, UNITS], tl.float32)
    for step in range(steps):
        unit = (span * steps + step) * UNITS + tl.arange(0, UNITS)
        code, scale = _load(codes, scales, n, unit, count, units, V, TIER)
        p = _elements(unit, V, TIER)
        part = tl.load(gradient + p, mask=p < length, other=0.0, eviction_policy="evict_last")[None, :, :]
        if TIER == "int4":
            high = tl.load(gradient + p + 32, mask=p + 32 < length, other=0.0, eviction_policy="evict_last")
            high = (high * 0.0625)[None, :, :]
            sums = tl.sum(_from_low_nibble(code, magic_8) * part, axis=2)
            total += (sums + tl.sum(_from_high_nibble(code, magic_128) * high, axis=2)) * scale
        elif TIER == "int8":
            total += tl.sum(_from_byte(code, magic_128) * part, axis=2) * scale
        else:
            total += tl.sum(code.to(tl.float32) * part, axis=2)
    tl.store(partial_SN + span * count + n, tl.sum(total, axis=1), mask=n < count)


@triton.jit
def _expand(
    codes, scales, out, weights, count, length, units, magic_8, magic_128,
    TIER: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """out += weights @ rows, for UNITS units of elements; each element belongs to one program."""
    unit = tl.program_id(0).to(tl.int64) * UNITS + tl.arange(0, UNITS)
    total = tl.zeros([UNITS, V], tl.float32)
    total_high = tl.zeros([UNITS, V], tl.float32)
    for start in range(0, count, ROWS):
        n = start + tl.arange(0, ROWS)
        code, scale = _load(codes, scales, n, unit, count, units, V, TIER)
        weight = (tl.load(weights + n, mask=n < count, other=0.0)[:, None] * scale)[:, :, None]
        if TIER == "int4":
            total += tl.sum(_from_low_nibble(code, magic_8) * weight, axis=0)
            total_high += tl.sum(_from_high_nibble(code, magic_128) * weight, axis=0)
        elif TIER == "int8":
            total += tl.sum(_from_byte(code, magic_128) * weight, axis=0)
        else:
            total += tl.sum(code.to(tl.float32) * weight, axis=0)
    p = _elements(unit, V, TIER)
    tl.store(out + p, tl.load(out + p, mask=p < length) + total, mask=p < length)
    if TIER == "int4":
        p += 32
        tl.store(out + p, tl.load(out + p, mask=p < length) + total_high * 0.0625, mask=p < length)


def project(precision: str, codes_NQ: Tensor, scales_NB: Tensor | None, gradient_P: Tensor) -> Tensor:
    """float32 [N]: `rows @ gradient`, rows stored as `resident_rows.ResidentRows` does, each in whole blocks."""
    count, length = len(codes_NQ), len(gradient_P)
    if count == 0 or length == 0:
        return gradient_P.new_zeros(count)
    V = PROJECT_UNIT_BYTES[precision] // codes_NQ.element_size()
    units = codes_NQ.shape[1] // V
    row_tiles, tiles = triton.cdiv(count, PROJECT_ROWS[precision]), triton.cdiv(units, UNITS)
    steps = min(MOST_STEPS, max(1, row_tiles * tiles // PROGRAMS))
    spans = triton.cdiv(tiles, steps)
    partial_SN = torch.empty(spans, count, dtype=torch.float32, device=codes_NQ.device)
    with torch.cuda.device_of(codes_NQ):
        _project[(row_tiles * spans,)](
            codes_NQ, scales_NB, gradient_P.contiguous(), partial_SN, count, length, units, steps, *MAGIC,
            TIER=precision, V=V, ROWS=PROJECT_ROWS[precision], UNITS=UNITS, num_warps=WARPS,
        )  # fmt: skip
    return partial_SN.sum(dim=0)


def expand_into(precision: str, codes_NQ: Tensor, scales_NB: Tensor | None, out_P: Tensor, weights_N: Tensor) -> None:
    """`out += weights @ rows`, in place; `out_P` must be contiguous."""
    count, length = len(codes_NQ), len(out_P)
    if count == 0 or length == 0:
        return
    V = EXPAND_UNIT_BYTES[precision] // codes_NQ.element_size()
    units = codes_NQ.shape[1] // V
    with torch.cuda.device_of(codes_NQ):
        _expand[(triton.cdiv(units, UNITS),)](
            codes_NQ, scales_NB, out_P, weights_N.contiguous(), count, length, units, *MAGIC,
            TIER=precision, V=V, ROWS=EXPAND_ROWS[precision], UNITS=UNITS, num_warps=WARPS,
        )  # fmt: skip
