"""Which kinds of tensors can be averaged. Others are refused by name, file and kind before anything touches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import SUPPORTED_DTYPES
from ladle_engine.errors import CheckpointError

MAX_REPEATED_BYTES = 1 << 30
"""A view that repeats its numbers (`expand`) may be this large, or as large as what it repeats."""

PLAIN_TYPES = (Tensor, nn.Parameter, nn.Buffer)
"""What a weights-only load gives for a tensor without a class of its own."""

CLASSES = {
    "torch.distributed.tensor.DTensor": "a DTensor, which is one rank's part. Gather the weights before you save them, "
    "with `get_model_state_dict` and `StateDictOptions(full_state_dict=True)`",
    "torch.distributed._shard.sharded_tensor.api.ShardedTensor": "a ShardedTensor, which is one rank's part. Save "
    "with FSDP's full state dict",
    "torch.nested._internal.nested_tensor.NestedTensor": "a nested tensor. Save its parts as tensors of their own",
    "torch.nn.parameter.UninitializedParameter": "a parameter of a lazy module that never ran. Save after a first "
    "forward pass",
    "torch.nn.parameter.UninitializedBuffer": "a buffer of a lazy module that never ran. Save after a first forward "
    "pass",
}
"""Tensors with a class of their own -> what they are, and what to do."""


def unsupported(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        "unsupported-tensors", f"Every tensor must be a plain one of numbers, but `{name}` in `{path}` is {what}."
    )


def refuse_unsupported(path: Path, name: str, value: object) -> None:
    """Raises `CheckpointError` (unsupported-tensors) for what is no dense tensor of numbers. Touches no value."""
    what = _special_kind(value)
    if what is not None:
        raise unsupported(path, name, what)


def dense(tensor: Tensor) -> Tensor:
    """The same values as a contiguous tensor without conjugate or negative bits: itself, if it is one."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def stored_at(tensor: Tensor) -> int | None:
    """The byte of its file where the numbers of a tensor's storage begin; None where torch did not note it."""
    offset: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return offset


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


def _special_kind(value: Any) -> str | None:
    if not isinstance(value, Tensor):
        return f"{getattr(value, 'kind', f'a {type(value).__name__}')}. Save it as a torch tensor"
    if type(value) not in PLAIN_TYPES:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return CLASSES.get(kind, f"a `{kind}`. Save it as a plain tensor")
    if value.is_nested:
        return "a nested tensor. Save its parts as tensors of their own"
    if value.layout is not torch.strided:
        return f"a sparse tensor ({str(value.layout).removeprefix('torch.')}). Save `tensor.to_dense()`"
    if value.is_quantized:
        return f"a quantised tensor ({str(value.dtype).removeprefix('torch.')}). Save `tensor.dequantize()`"
    if value.is_meta and stored_at(value) is None:
        return "a meta tensor, which has a shape but no values"
    if value.dtype not in SUPPORTED_DTYPES:
        return dtype_kind(value.dtype)
    if _bytes_of(value) > max(MAX_REPEATED_BYTES, value.untyped_storage().nbytes()):
        return (
            f"a view that repeats {value.untyped_storage().nbytes():,} bytes until they are {_bytes_of(value):,}. Save "
            f"what it repeats"
        )
    return None


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize
