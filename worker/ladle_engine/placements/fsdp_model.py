"""A model whose parameters are FSDP2 shards from the start: no rank ever holds all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.errors import EngineError
from ladle_engine.model.groups import layers_of
from ladle_engine.tasks.base import Task


def build_sharded(task: Task, checkpoints: CheckpointSet, collectives: Collectives, device: torch.device) -> nn.Module:
    """Collective: the task's model, float32, each numbered block gathered and freed on its own.

    Raises `EngineError` (invalid-placement) for a model that FSDP2 does not take.
    """
    # It takes a second to import, which other placements do not need.
    from torch.distributed.fsdp import fully_shard

    with parameters_on_meta():
        model = task.build_model(checkpoints).float()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    mesh = init_device_mesh(device.type, (collectives.size,))
    blocks = set(layers_of([name for name, _ in model.named_parameters()]).values())
    try:
        # The inner ones first: a stage of blocks may have parameters of its own.
        for name, module in reversed(list(model.named_modules())):
            if name in blocks and name.rpartition(".")[2].isdigit() and any(True for _ in module.parameters()):
                # Freed after forward as well: parameters are placed between passes, and a kept copy would be stale.
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError) as error:
        raise EngineError(
            "invalid-placement", f"`placement=` must be another one for this model, but is `sharded-model`: {error}"
        ) from error
    model.to_empty(device=device)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    return model


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Inside, parameters have shapes and no memory as soon as a module has them; buffers stay what they are.

    `torch.device("meta")` would take the buffers too, some of which (positions, rotary frequencies) no file restores.
    """
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]  # for as long as the block lasts
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]  # as it was
