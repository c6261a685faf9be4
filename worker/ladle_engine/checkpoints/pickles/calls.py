"""What the calls in a pickle make: tensors as records of where their numbers are, a few containers, and else inert
records of what would be called. Nothing is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Record, Special, Storage, StoredTensor
from ladle_engine.checkpoints.types import TensorInfo

MAX_DIMENSIONS = 64
"""torch has no tensor of more."""
MAX_INDEX = 1 << 63
"""Sizes, offsets and counts are int64."""
MOST_NAME_CHARS = 200
"""In a message."""

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

SPECIAL_CALLS = {
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has a shape but no values",
    "torch._utils._rebuild_nested_tensor": "a nested tensor. Save its parts as tensors of their own",
    "torch._utils._rebuild_wrapper_subclass": "a subclass of Tensor. Save it as a plain tensor",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor kept as a numpy array. Save `tensor.cpu()`",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device. Save `tensor.cpu()`",
    "numpy.ndarray": "a numpy array. Save it as a torch tensor",
    "numpy.core.multiarray._reconstruct": "a numpy array. Save it as a torch tensor",
    "numpy._core.multiarray._reconstruct": "a numpy array. Save it as a torch tensor",
    "numpy._core.numeric._frombuffer": "a numpy array. Save it as a torch tensor",
    "numpy.core.numeric._frombuffer": "a numpy array. Save it as a torch tensor",
    **CLASSES,
}

TENSOR_CLASSES = frozenset(
    {
        *("torch.Tensor", "torch.nn.parameter.Parameter"),
        *(f"torch.{storage.split('.')[-1].removesuffix('Storage')}Tensor" for storage in STORAGE_TYPES),
    }
)


def called(name: str, arguments: Arguments, charge: Charge) -> Any:
    """What stands for `name(*arguments)`. Raises `Malformed`."""
    if (maker := MAKERS.get(name)) is not None:
        return maker(arguments, charge)
    if name in SPECIAL_CALLS:
        return Special(name, arguments, kind=SPECIAL_CALLS[name])
    if name in TENSOR_CLASSES:
        return Special(name, arguments, kind="a tensor without numbers in the file. Save it anew")
    return Inert(name, arguments)


def referred_to(identifier: Any) -> Storage | Name:
    """What a persistent id stands for: a storage or, in files of before torch 1.6, a class. Raises `Malformed`."""
    match identifier:
        case ("module", Name() as name, _, _):
            return name
        case _:
            return _storage_of(identifier)


def _storage_of(identifier: Any) -> Storage:
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


def _dict(arguments: Arguments, charge: Charge) -> dict[Any, Any]:
    """Of a dict or, as Python 2 wrote it, a list of pairs."""
    if not arguments:
        return {}
    (items,) = _exactly(arguments, 1)
    if isinstance(items, dict):
        return items
    if not isinstance(items, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in items):
        raise Malformed("it makes a dict of something else than pairs")
    charge(100 * len(items))
    return {as_key(key): value for key, value in items}


def _default_dict(arguments: Arguments, charge: Charge) -> dict[Any, Any]:
    """What makes the missing values is left out."""
    return _dict(arguments[1:], charge)


def as_key(key: Any) -> Any:
    """A tuple of tuples of the same tuples takes for ever to hash, and a long number long, each time."""
    if (
        key is None
        or type(key) in (str, float, bool, bytes, Name, Inert)
        or (type(key) is int and abs(key) < MAX_INDEX)
        or isinstance(key, Record)
    ):
        return key
    return Inert("a key", (key,))


def _list(arguments: Arguments, charge: Charge) -> list[Any]:
    """Also of a set or a deque; more items may follow."""
    items = arguments[0] if arguments else ()
    if not isinstance(items, (list, tuple)):
        raise Malformed("it makes a list of something else than items")
    if isinstance(items, list):
        return items
    charge(8 * len(items))
    return list(items)


def _itself(arguments: Arguments, charge: Charge) -> Any:
    """A size, as the tuple that it is made of."""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else arguments


def _encoded(arguments: Arguments, charge: Charge) -> Any:
    """Bytes as the protocols before 3 have them: a text of their values."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
        return Inert("_codecs.encode", arguments)
    charge(len(arguments[0]))
    return arguments[0].encode("latin-1")


def _bytes(arguments: Arguments, charge: Charge) -> Any:
    """Of nothing, or of bytes."""
    return b"" if not arguments else Inert("builtins.bytes", arguments)


def _object(arguments: Arguments, charge: Charge) -> Any:
    """`copyreg._reconstructor(class, base, base's value)`, or `__newobj__(class, *arguments)`."""
    if not arguments or not isinstance(arguments[0], Name):
        raise Malformed("it makes an object of no class")
    return called(arguments[0].name, arguments[1:], charge)


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
    kind = f"a quantised tensor ({name.removeprefix('torch.')}). Save `tensor.dequantize()`"
    return Special("torch._utils._rebuild_qtensor", arguments, kind=kind)


def _sparse(arguments: Arguments, charge: Charge) -> Special:
    layout = arguments[0].name if arguments and isinstance(arguments[0], Name) else "unknown"
    kind = f"a sparse tensor ({layout.removeprefix('torch.')}). Save `tensor.to_dense()`"
    return Special("torch._utils._rebuild_sparse_tensor", arguments, kind=kind)


def _layout(arguments: Arguments, charge: Charge) -> Name:
    (name,) = _exactly(arguments, 1)
    return Name(str(name)[:100] if isinstance(name, str) else "unknown")


def _with_type(arguments: Arguments, charge: Charge) -> Any:
    """`_rebuild_from_type_v2(function, class, arguments, state)`: a tensor with a class or attributes of its own.

    Its numbers are those of the tensor below. A wrapper such as a DTensor has none, and keeps its state.
    """
    function, kind, inner, state = _exactly(arguments, 4)
    if not (isinstance(function, Name) and isinstance(kind, Name) and isinstance(inner, tuple)):
        raise Malformed("it makes a tensor in an unknown way")
    if function.name in REBUILDING and kind.name not in CLASSES:
        return REBUILDING[function.name](inner, charge)
    what = SPECIAL_CALLS.get(kind.name, f"a `{kind.name[:MOST_NAME_CHARS]}`. Save it as a plain tensor")
    return Special(kind.name, inner, state, kind=what)


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
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "builtins.dict"), _dict),
    "collections.defaultdict": _default_dict,
    **dict.fromkeys(("builtins.set", "builtins.frozenset", "builtins.list", "collections.deque"), _list),
    "_codecs.encode": _encoded,
    "builtins.bytes": _bytes,
    "torch.Size": _itself,
    "torch.serialization._get_layout": _layout,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_type,
    **dict.fromkeys(("copyreg._reconstructor", "copyreg.__newobj__"), _object),
}
