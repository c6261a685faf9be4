"""Delta space: what adapters add to the weights, `s B A`, as tensors that can be averaged one by one.

The rows of all first factors `A_i` of a layer span a space; `Q` is an orthonormal basis of it (QR). Each checkpoint is
presented with the factors `Q`, the same for all, and `B'_i = s_i B_i A_i Q^T`. Then `B'_i Q = s_i B_i A_i` exactly, and
a weighted sum of the `B'_i` is the sum of the deltas: what is averaged is linear again. Because Q is orthonormal,
lengths and angles between the `B'_i` are those between the deltas themselves. Nothing of the size of a whole weight
matrix is made.

Shape suffixes: R rows of all first factors together, I inputs, Q rows of the basis, O outputs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ladle_engine.checkpoints.adapters.modules import Module
from ladle_engine.checkpoints.adapters.reader import Adapter
from ladle_engine.checkpoints.types import Checkpoint, TensorInfo
from ladle_engine.errors import CheckpointError

KEPT_BYTES = 256 << 20
"""Of bases that were made; others are made again when they are asked for."""


class SharedBasis:
    """`Q` of each layer, made when it is first asked for. Several threads may ask."""

    def __init__(self, read_all: Callable[[str], Sequence[Tensor]]) -> None:
        """`read_all(name)` gives the first factors of that name, of all checkpoints in order."""
        self._read_all = read_all
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.RLock()

    def of(self, name: str) -> Tensor:
        """float32 [Q, I] for the layer whose first factor has this name."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._made(name)
                while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return self._kept[name]

    def _made(self, name: str) -> Tensor:
        a_RI = torch.cat([each.flatten(1).double() for each in self._read_all(name)])
        basis_IQ: Tensor = torch.linalg.qr(a_RI.T).Q
        return basis_IQ.T.float().contiguous()


class DeltaView:
    """One of K adapters in delta space."""

    def __init__(self, basis: SharedBasis, ranks: Mapping[str, int]) -> None:
        """`ranks`: first factor's name -> how many rows all first factors have together."""
        self._basis = basis
        self._ranks = ranks

    def tensors(self, adapter: Adapter) -> Mapping[str, TensorInfo]:
        found = dict(adapter.weights.tensors())
        for module in adapter.modules.values():
            rank = min(self._ranks[module.a], module.num_inputs)
            found[module.a] = TensorInfo(shape=module.a_shape(rank), dtype=torch.float32)
            found[module.b] = TensorInfo(shape=module.b_shape(rank), dtype=torch.float32)
        return found

    def is_stored(self, adapter: Adapter, name: str) -> bool:
        return adapter.module_of(name) is None

    def read(self, adapter: Adapter, name: str) -> Tensor:
        module = adapter.module_of(name)
        if module is None:
            return adapter.weights.read(name)
        if name == module.bias:
            bias = adapter.weights.read(name)
            return (bias.double() * module.scale).to(bias.dtype)
        basis_QI = self._basis.of(module.a)
        if name == module.a:
            return basis_QI.reshape(module.a_shape(len(basis_QI)))
        return _in_basis(adapter, module, basis_QI)


def _in_basis(adapter: Adapter, module: Module, basis_QI: Tensor) -> Tensor:
    a_RI = adapter.weights.read(module.a).flatten(1).double()
    b_OR = adapter.weights.read(module.b).flatten(1).double()
    b_OQ = module.scale * (b_OR @ (a_RI @ basis_QI.T.double()))
    return b_OQ.float().reshape(module.b_shape(len(basis_QI)))


def finite(checkpoint: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    """The tensor. One number that is not finite would spoil the basis of all: raises `CheckpointError`."""
    if not bool(torch.isfinite(tensor.float()).all()):
        raise CheckpointError(
            "non-finite-weights",
            f"Weights must be finite, but `{name}` in `{checkpoint.name}` holds NaN or infinite values. Leave that "
            f"checkpoint out with `exclude=`.",
        )
    return tensor
