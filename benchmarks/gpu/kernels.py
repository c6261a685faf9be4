"""The Triton kernels against products of whole numbers, which float32 holds exactly: not one bit may differ.

Rows, gradients and weights are whole numbers. Those of the rows are stored as they are at each precision: a block has a
127 in it for int8 and a 7 for int4, so its scale is 1. No sum reaches 2^24, so the order of adding does not matter.

Shape suffixes: N rows, P elements.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType

import torch
from measuring import table_lines
from torch import Tensor

from gpu.parts import Found, Setting, require
from ladle_engine.directions.formats import BLOCK, ROW_PRECISIONS, row_bytes
from ladle_engine.directions.resident_rows import ResidentRows, _kernels, kernels_failure
from ladle_engine.placements.memory_probe import available_bytes

LARGEST = {"float32": 100, "bfloat16": 100, "int8": 127, "int4": 7}
AT_ONCE = 1 << 24
"""Elements that are made and multiplied at once, over all rows."""

SHAPES = (
    *((1, 1), (1, 64), (2, 63), (3, 65), (10, 1000), (16, 4096), (17, 12_345), (33, 64 * 129 + 1)),
    *((300, 777), (300, 100_003), (7, 1_048_589), (10, 25_557_032)),
)
"""N, P: of odd sizes, of one tile and of many, and as long as ResNet-50."""
PAST_32_BITS = (24, 100_000_007)
"""More codes than a whole number of 32 bits counts, at every precision but int4."""
SMALL_SHAPES = ((1, 1), (2, 63), (10, 65), (17, 1000), (5, 3000))
"""For Triton's interpreter, which takes a millisecond and more for each program."""


def kernels(setting: Setting) -> Found:
    """Every precision and shape, twice; and that the engine picks the kernels where it should."""
    module = _module(setting)
    shapes = SHAPES if setting.on_gpu else SMALL_SHAPES
    if setting.on_gpu and not setting.quick:
        shapes = (*shapes, PAST_32_BITS)
    found, wrong = Found(), []
    rows = []
    for precision in ROW_PRECISIONS:
        if setting.on_gpu:
            failure = kernels_failure(precision, setting.device)
            picked = _kernels(precision, setting.device) is not None
            require(picked, f"the engine must take the kernels for {precision}, but does not: {failure}")
        tried, left_out = [], []
        for count, length in shapes:
            if not _fits(precision, count, length, setting):
                left_out.append(f"{count} x {length:,}")
                continue
            tried.append([count, length])
            if mistakes := _mistakes(module, precision, count, length, setting):
                wrong.append(f"{precision} {count} x {length:,}: {', '.join(mistakes)}")
        found.figures[precision] = {"shapes": tried, "left_out_for_memory": left_out}
        rows.append([precision, str(len(tried)), f"{max(length for _, length in tried):,}", ", ".join(left_out) or "-"])
    found.figures["wrong"] = wrong
    found.lines = table_lines(("precision", "shapes", "the longest row", "left out for memory"), rows)
    found.says = f"{len(shapes)} shapes at {len(ROW_PRECISIONS)} precisions, {len(wrong)} of them wrong"
    setting.keep(found)
    require(not wrong, f"kernels must give the exact sums, but do not: {'; '.join(wrong)}")
    return found


def _module(setting: Setting) -> ModuleType:
    if not setting.on_gpu:
        # Triton reads it when it is imported.
        os.environ["TRITON_INTERPRET"] = "1"
    from ladle_engine.directions import kernels as module

    if not setting.on_gpu:
        # Several programs and steps from small pieces.
        module.UNITS, module.PROGRAMS = 32, 2
    return module


def _fits(precision: str, count: int, length: int, setting: Setting) -> bool:
    return 2 * (count * row_bytes(precision, length) + 24 * length) < available_bytes(setting.device)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """What the kernels must give."""

    rows: ResidentRows
    gradient_P: Tensor
    weights_N: Tensor
    projected_N: Tensor
    """float64."""
    expanded_P: Tensor
    """float32, over ones."""


def _mistakes(module: ModuleType, precision: str, count: int, length: int, setting: Setting) -> list[str]:
    sums = _sums(precision, count, length, setting.device)
    kept = (sums.rows.codes_NQ, sums.rows.scales_NB)
    mistakes = []
    for which in ("first", "second"):
        projected_N = module.project(precision, *kept, sums.gradient_P)
        if not torch.equal(projected_N.double(), sums.projected_N):
            mistakes.append(f"{which} project")
        out_P = torch.ones(length, device=setting.device)
        module.expand_into(precision, *kept, out_P, sums.weights_N)
        if not torch.equal(out_P, sums.expanded_P):
            mistakes.append(f"{which} expand")
    if setting.on_gpu and not torch.equal(sums.rows.project(sums.gradient_P), projected_N):
        mistakes.append("the engine's own project")
    sums.rows.close()
    return mistakes


def _sums(precision: str, count: int, length: int, device: torch.device) -> _Sums:
    """Rows, filled piece by piece, and the sums of each piece by float64 products."""
    generator = torch.Generator(device).manual_seed(count + length)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator, device=device).float()

    gradient_P, weights_N = whole(-1, 1, length), whole(-3, 3, count)
    rows = ResidentRows.allocate(precision, count, length, device)
    projected_N = torch.zeros(count, dtype=torch.float64, device=device)
    expanded_P = torch.ones(length, device=device)
    largest = LARGEST[precision]
    step = max(AT_ONCE // count // BLOCK, 1) * BLOCK
    for start in range(0, length, step):
        piece = slice(start, min(start + step, length))
        rows_NC = whole(-largest, largest, count, piece.stop - start)
        rows_NC[:, ::BLOCK] = largest
        rows.fill(start, rows_NC)
        projected_N += rows_NC.double() @ gradient_P[piece].double()
        expanded_P[piece] += (weights_N.double() @ rows_NC.double()).float()
    return _Sums(rows=rows, gradient_P=gradient_P, weights_N=weights_N, projected_N=projected_N, expanded_P=expanded_P)
