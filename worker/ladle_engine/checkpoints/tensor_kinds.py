"""Which kinds of tensors can be averaged. Others are refused by name, file and kind before anything touches them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ladle_engine.checkpoints.pickles.values import Inert, Special, Storage, StoredTensor
from ladle_engine.checkpoints.types import SUPPORTED_DTYPES
from ladle_engine.errors import CheckpointError

MAX_REPEATED_BYTES = 1 << 30
"""A view that repeats its numbers (`expand`) may be this large, or as large as what it repeats."""

MOST_NAME_CHARS = 200
"""Of a class, in a message."""


def unsupported(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        "unsupported-tensors", f"Every tensor must be a plain one of numbers, but `{name}` in `{path}` is {what}."
    )


def refuse_unsupported(path: Path, name: str, value: object) -> None:
    """Raises `CheckpointError` (unsupported-tensors) for what is no dense tensor of numbers."""
    what = _special_kind(value)
    if what is not None:
        raise unsupported(path, name, what)


def dense(tensor: Tensor) -> Tensor:
    """The same values as a contiguous tensor without conjugate or negative bits: itself, if it is one."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two dense tensors of one shape are the same; works for every type, and a NaN equals itself."""
    # The comparison ends at the first difference: tensors that were trained cost a page each.
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


def dtype_kind(dtype: torch.dtype | str) -> str:
    """What a type that is not in `SUPPORTED_DTYPES` is, and what to do."""
    name = str(dtype).removeprefix("torch.")
    if name in ("complex32", "complex128"):
        return f"{name}, which safetensors cannot hold. Save it as complex64, or as two real tensors"
    return f"{name}, which is packed or quantised and has no average. Save the weights in floating point"


def _special_kind(value: object) -> str | None:
    if isinstance(value, (Special, Storage)):
        return value.kind
    if isinstance(value, Inert):
        return f"a `{value.name[:MOST_NAME_CHARS]}`. Save it as a torch tensor"
    if not isinstance(value, StoredTensor):
        return f"a {type(value).__name__}. Save it as a torch tensor"
    if value.info.dtype not in SUPPORTED_DTYPES:
        return dtype_kind(value.info.dtype)
    if value.num_bytes > max(MAX_REPEATED_BYTES, value.storage.num_bytes):
        return (
            f"a view that repeats {value.storage.num_bytes:,} bytes until they are {value.num_bytes:,}. Save what it "
            f"repeats"
        )
    return None
