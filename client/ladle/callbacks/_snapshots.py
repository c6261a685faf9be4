"""Copies of a model's state in CPU memory, and where that state comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Snapshots:
    """Copies into the same memory again and again, so that a copy costs no new pages.

    The copy is good until the next one is taken.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Name -> tensor on the CPU, contiguous. Tensors that are one in the model are one in the copy.

        What is no tensor, such as the extra state of a module, is left out.
        """
        taken: dict[str, Tensor] = {}
        first: dict[tuple[Any, ...], str] = {}
        memory, self._memory = self._memory, {}
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            same = first.setdefault(_identity(value, name), name)
            if same == name:
                self._memory[name] = _copied(value.detach(), memory.get(name))
            taken[name] = self._memory[same]
        if any(isinstance(value, Tensor) and value.is_cuda for value in state.values()):
            # Copies into pinned memory are only under way until now.
            torch.cuda.synchronize()
        return taken


def each_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under one name each, because safetensors holds no shared ones; and each other name -> that name.

    `safetensors.torch.load_model` finds the others by the second, which goes to the metadata.
    """
    names: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, tensor in state.items():
        if (kept := names.setdefault(id(tensor), name)) != name:
            others[name] = kept
    return {name: state[name] for name in names.values()}, others


def is_main_rank() -> bool:
    """Whether this process writes. Without a process group it is what torchrun says, or the only one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def is_sharded(model: nn.Module) -> bool:
    """Whether no rank has all of it, as with FSDP: then every rank must take part in gathering it."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return True
    return any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


def full_state(model: nn.Module) -> dict[str, Any]:
    """The whole state of a model. Collective where it is sharded; then only the main rank gets it.

    Raises ValueError for weights that DeepSpeed ZeRO-3 has split: their state holds empty tensors.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError(
            "`model` must have its weights, but DeepSpeed ZeRO-3 has split them. Use "
            "`ladle.callbacks.transformers.LadleCallback`, which gathers them, or ZeRO 1 or 2."
        )
    if not is_sharded(model):
        state: dict[str, Any] = unwrapped(model).state_dict()
        return state
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    gathered: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return gathered


def _identity(tensor: Tensor, name: str) -> tuple[Any, ...]:
    """The same for tensors that are one. Empty ones have no place in memory to tell them apart."""
    if tensor.layout is not torch.strided or tensor.numel() == 0 or type(tensor) not in (Tensor, nn.Parameter):
        return (name,)
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _copied(tensor: Tensor, memory: Tensor | None) -> Tensor:
    if memory is None or memory.shape != tensor.shape or memory.dtype != tensor.dtype:
        if tensor.layout is not torch.strided:
            return tensor.to("cpu", copy=True)
        memory = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return memory.copy_(tensor, non_blocking=memory.is_pinned())
