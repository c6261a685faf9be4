"""How rows are stored at each precision, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 64
"""Elements that share one scale in int8 and int4."""

OFFLOAD = "offload:"
"""Before a precision's name: the rows stay in host memory and stream to the device."""


class Rows(Protocol):
    """N rows of P elements, filled once, then only read."""

    def fill(self, start: int, rows_NC: Tensor) -> None:
        """Keeps elements `start` to `start + C` of every row.

        `rows_NC` is float32 or float64, on any device. `start` is a multiple of BLOCK, and so is C except at the end.
        """
        ...

    def project(self, gradient_P: Tensor) -> Tensor:
        """float32 [N]: `rows @ gradient`. `gradient_P` is float32 on the rows' device."""
        ...

    def expand_into(self, out_P: Tensor, weights_N: Tensor) -> None:
        """`out += weights @ rows`, in place. Both are float32 on the rows' device."""
        ...

    def close(self) -> None:
        """Frees the memory; nothing else may be called after it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a precision stores elements."""

    dtype: torch.dtype
    codes_per_block: int = BLOCK
    largest_code: int | None = None
    """Codes run from minus this to this, times a scale; None where elements are stored as they are."""


_FORMATS = {
    "float32": Format(dtype=torch.float32),
    "bfloat16": Format(dtype=torch.bfloat16),
    "int8": Format(dtype=torch.int8, largest_code=127),
    "int4": Format(dtype=torch.int8, codes_per_block=BLOCK // 2, largest_code=7),
}

ROW_PRECISIONS: tuple[str, ...] = tuple(_FORMATS)
"""From the most exact to the smallest."""


def row_bytes(precision: str, length: int) -> int:
    """What one row of `length` elements takes, padding and scales included; for `offload:`, in host memory."""
    form = format_of(precision.removeprefix(OFFLOAD))
    scale_bytes = 0 if form.largest_code is None else torch.bfloat16.itemsize
    return num_blocks(length) * (form.codes_per_block * form.dtype.itemsize + scale_bytes)


def format_of(precision: str) -> Format:
    if precision not in _FORMATS:
        raise ValueError(
            f"`precision` must be one of {', '.join(ROW_PRECISIONS)}, alone or after `{OFFLOAD}`, but is {precision!r}."
        )
    return _FORMATS[precision]


def num_blocks(length: int) -> int:
    return -(-length // BLOCK)
