"""accelerate: `save_state`, whole or (on two ranks under FSDP) in shards."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin, load_checkpoint_in_model
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    ProjectConfiguration,
    merge_fsdp_weights,
    save_fsdp_model,
    save_fsdp_optimizer,
)
from common import State, main, result_of, same
from ranks import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

KIND = os.environ.get("KIND", "whole")


def net() -> nn.Module:
    return nn.Sequential(nn.Embedding(16, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 16))


def train(folder: Path) -> None:
    accelerator = Accelerator(
        cpu=True, project_config=ProjectConfiguration(project_dir=str(folder), automatic_checkpoint_naming=True)
    )
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    for _ in range(4):
        tokens = torch.randint(0, 16, (4, 3))
        accelerator.backward(nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))
        optimizer.step()
        optimizer.zero_grad()
        accelerator.save_state()


def train_in_shards(folder: Path) -> None:
    """What `save_state` calls under FSDP. accelerate itself shards on accelerators alone."""
    torch.manual_seed(0)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    accelerator = Accelerator(cpu=True)
    AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    model = fully_shard(net(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for number in range(4):
        tokens = torch.randint(0, 16, (4, 3))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        home = folder / "checkpoints" / f"checkpoint_{number}"
        save_fsdp_model(plugin, accelerator, model, str(home))
        save_fsdp_optimizer(plugin, accelerator, optimizer, model, str(home))


def write(folder: Path) -> None:
    if KIND == "fsdp":
        on_ranks(train_in_shards, folder)
    else:
        train(folder)


def states(folder: Path) -> list[State]:
    found = []
    for number in range(4):
        home = folder / "checkpoints" / f"checkpoint_{number}"
        if KIND == "fsdp":
            merge_fsdp_weights(str(home / "pytorch_model_fsdp_0"), str(folder.parent / f"{folder.name}-{number}"))
            home = folder.parent / f"{folder.name}-{number}"
        model = net()
        load_checkpoint_in_model(model, str(home))
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


def use(folder: Path, result: Path) -> None:
    model = net()
    load_checkpoint_in_model(model, str(result))
    same(model.state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)
