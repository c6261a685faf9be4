"""What a floating type cannot hold: torch makes an infinity of it, a NaN, or (float8_e4m3fn) the largest number that
there is, without a word."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SATURATING = (torch.float8_e4m3fn,)


def limit(dtype: torch.dtype) -> float:
    """What is smaller rounds to a finite number of this type; this and what is larger does not."""
    info = torch.finfo(dtype)
    # Half of the step between the largest numbers; a float64 has no wider type that it could be rounded from.
    return info.max + 2.0 ** math.floor(math.log2(info.max)) * info.eps / 2 if info.bits < 64 else math.inf


def largest(tensor: Tensor) -> float:
    """The largest absolute value, of complex numbers' parts; NaN where there is one, and 0 for no number."""
    if not tensor.numel():
        return 0.0
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if real.dtype.itemsize == 1:
        real = real.float()
    low, high = torch.aminmax(real)
    return max(-float(low), float(high))


def too_large(name: str, whose: str, value: float, dtype: torch.dtype) -> str:
    """The message: `name` of `whose` reaches `value`."""
    return (
        f"Weights must fit the type that they are written in, but `{name}` of {whose} is too large: it reaches "
        f"{value:.6g}, and {str(dtype).removeprefix('torch.')} ends at {torch.finfo(dtype).max:.6g}. Choose a wider "
        f"`dtype=`."
    )
