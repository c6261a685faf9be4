"""What the calls in a pickle make: tensors as records of where their numbers are, and little else.

The names are those that torch's own weights-only loading allows, with numpy's numbers and argparse's arguments; no
other name is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Special, Storage, StoredTensor
from ladle_engine.checkpoints.types import TensorInfo

MAX_DIMENSIONS = 64
"""torch has no tensor of more."""
MAX_INDEX = 1 << 63
"""Sizes, offsets and counts are int64."""

Arguments = tuple[Any, ...]
Charge = Callable[[int], None]
"""Takes so many bytes from what a pickle may need."""

DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

STORAGE_TYPES: dict[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.QInt8Storage": torch.qint8,
    "torch.QUInt8Storage": torch.quint8,
    "torch.QInt32Storage": torch.qint32,
    "torch.QUInt4x2Storage": torch.quint4x2,
    "torch.QUInt2x4Storage": torch.quint2x4,
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.storage._UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}

SPECIAL_CALLS = {
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has a shape but no values",
    "torch._utils._rebuild_nested_tensor": "a nested tensor. Save its parts as tensors of their own",
    "torch._utils._rebuild_wrapper_subclass": "a subclass of Tensor. Save it as a plain tensor",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor kept as a numpy array. Save `tensor.cpu()`",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device. Save `tensor.cpu()`",
    "numpy.ndarray": "a numpy array. Save it as a torch tensor",
    "numpy.core.multiarray._reconstruct": "a numpy array. Save it as a torch tensor",
    "numpy._core.multiarray._reconstruct": "a numpy array. Save it as a torch tensor",
}

INERT_CALLS = frozenset(
    {
        *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        *("torch.device", "_codecs.encode", "builtins.bytearray"),
        # The arguments of a training script, which timm keeps beside the weights: a bag of values.
        *("builtins.complex", "argparse.Namespace"),
    }
)

PLAIN_TENSOR = ("torch.Tensor", "torch.nn.parameter.Parameter")

TENSOR_CLASSES = frozenset(
    {
        *PLAIN_TENSOR,
        *(f"torch.{storage.split('.')[-1].removesuffix('Storage')}Tensor" for storage in STORAGE_TYPES),
    }
)

CONSTANTS = frozenset(
    {
        *DTYPES,
        *STORAGE_TYPES,
        *TENSOR_CLASSES,
        *("torch.storage.TypedStorage", "torch.per_tensor_affine", "torch.per_tensor_symmetric"),
        *("torch.per_channel_affine", "torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams"),
    }
)


def called(name: str, arguments: Arguments, charge: Charge) -> Any:
    """What `name(*arguments)` would be. Raises `Malformed`."""
    if (maker := MAKERS.get(name)) is not None:
        return maker(arguments, charge)
    if name in SPECIAL_CALLS:
        return Special(SPECIAL_CALLS[name])
    if name in TENSOR_CLASSES:
        return Special("a tensor without numbers in the file. Save it anew")
    return Inert()


def storage_of(identifier: Any) -> Storage:
    """What a persistent id stands for. Raises `Malformed`."""
    if (
        not isinstance(identifier, tuple)
        or len(identifier) not in (5, 6)
        or identifier[0] not in ("storage", b"storage")
    ):
        raise Malformed("it refers to something that is no storage")
    kind, key, _, count, *view = identifier[1:]
    dtype = STORAGE_TYPES.get(kind.name) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str) or not _is_index(count):
        raise Malformed("it describes a storage in an unknown way")
    found = Storage(key=key, dtype_name=str(dtype), itemsize=dtype.itemsize, count=count)
    if not view or view[0] is None:
        return found
    (part,) = view
    if not isinstance(part, tuple) or len(part) != 3 or not (_is_index(part[1]) and _is_index(part[2])):
        raise Malformed("it describes a part of a storage in an unknown way")
    return Storage(key=key, dtype_name=str(dtype), itemsize=dtype.itemsize, count=count, start=part[1])


def _ordered_dict(arguments: Arguments, charge: Charge) -> dict[Any, Any]:
    """Also of a list of pairs, as Python 2 wrote it, and a Counter."""
    if not arguments:
        return {}
    (items,) = _exactly(arguments, 1)
    if isinstance(items, dict):
        return items
    if not isinstance(items, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in items):
        raise Malformed("it makes a dict of something else than pairs")
    charge(100 * len(items))
    return {key if is_plain_key(key) else Inert(): value for key, value in items}


def is_plain_key(key: Any) -> bool:
    """Others may take for ever to hash: a tuple of tuples of the same tuples."""
    return key is None or type(key) in (str, int, float, bool, bytes)


def _itself(arguments: Arguments, charge: Charge) -> Any:
    """A set or a size, as the list or tuple that it is made of."""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else arguments


def _tensor(arguments: Arguments, charge: Charge) -> StoredTensor:
    """`_rebuild_tensor(storage, offset, size, stride)`, or `_v2(..., requires_grad, hooks, metadata)`."""
    storage = _storage(arguments)
    metadata = arguments[6] if len(arguments) > 6 else None
    return _placed(storage, DTYPES[storage.dtype_name], arguments[1:4], metadata)


def _tensor_of_type(arguments: Arguments, charge: Charge) -> StoredTensor:
    """`_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)`"""
    storage = _storage(arguments)
    dtype = DTYPES.get(arguments[6].name) if len(arguments) > 6 and isinstance(arguments[6], Name) else None
    if dtype is None:
        raise Malformed("it makes a tensor of an unknown type")
    return _placed(storage, dtype, arguments[1:4], arguments[7] if len(arguments) > 7 else None)


def _storage(arguments: Arguments) -> Storage:
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise Malformed("it makes a tensor of something that is no storage")
    storage: Storage = arguments[0]
    return storage


def _placed(storage: Storage, dtype: torch.dtype, place: Sequence[Any], metadata: Any) -> StoredTensor:
    """Checked to lie in its storage."""
    offset, shape, stride = place
    if not (_is_index(offset) and _are_indices(shape) and _are_indices(stride) and len(shape) == len(stride)):
        raise Malformed("it makes a tensor of an impossible shape")
    info = TensorInfo(shape=tuple(shape), dtype=dtype)
    if info.numel * dtype.itemsize >= MAX_INDEX:
        raise Malformed("it makes a tensor of an impossible size")
    end = (
        offset + 1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if info.numel else offset
    )
    if info.numel and (storage.start * storage.itemsize + end * dtype.itemsize) > storage.num_bytes:
        raise Malformed("it makes a tensor that reaches beyond its storage")
    bits = metadata if isinstance(metadata, dict) else {}
    return StoredTensor(
        info=info,
        storage=storage,
        offset=offset,
        stride=tuple(stride),
        is_negated=bits.get("neg") is True,
        is_conjugated=bits.get("conj") is True,
    )


def _parameter(arguments: Arguments, charge: Charge) -> Any:
    if not arguments or not isinstance(arguments[0], (StoredTensor, Special)):
        raise Malformed("it makes a parameter of something that is no tensor")
    return arguments[0]


def _quantised(arguments: Arguments, charge: Charge) -> Special:
    name = arguments[0].dtype_name if arguments and isinstance(arguments[0], Storage) else "unknown"
    return Special(f"a quantised tensor ({name.removeprefix('torch.')}). Save `tensor.dequantize()`")


def _sparse(arguments: Arguments, charge: Charge) -> Special:
    layout = arguments[0].name if arguments and isinstance(arguments[0], Name) else "unknown"
    return Special(f"a sparse tensor ({layout.removeprefix('torch.')}). Save `tensor.to_dense()`")


def _layout(arguments: Arguments, charge: Charge) -> Name:
    (name,) = _exactly(arguments, 1)
    return Name(str(name)[:100] if isinstance(name, str) else "unknown")


def _with_type(arguments: Arguments, charge: Charge) -> Any:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes of its own."""
    function, kind, inner, _ = _exactly(arguments, 4)
    if not (isinstance(function, Name) and isinstance(kind, Name) and isinstance(inner, tuple)):
        raise Malformed("it makes a tensor in an unknown way")
    if function.name not in REBUILDING or kind.name not in PLAIN_TENSOR:
        return Special(f"a `{kind.name}`. Save it as a plain tensor")
    return REBUILDING[function.name](inner, charge)


def _exactly(arguments: Arguments, count: int) -> Arguments:
    if len(arguments) != count:
        raise Malformed("it calls something with the wrong number of arguments")
    return arguments


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_INDEX


def _are_indices(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and len(values) <= MAX_DIMENSIONS and all(map(_is_index, values))


REBUILDING: dict[str, Callable[[Arguments, Charge], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
}

MAKERS: dict[str, Callable[[Arguments, Charge], Any]] = {
    **REBUILDING,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _ordered_dict,
    "builtins.set": _itself,
    "torch.Size": _itself,
    "torch.serialization._get_layout": _layout,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_type,
}

KNOWN = frozenset({*MAKERS, *SPECIAL_CALLS, *INERT_CALLS, *CONSTANTS})
"""All names that a pickle may have."""
