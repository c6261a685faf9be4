"""torch.distributed.checkpoint from a model under FSDP2 on two ranks, `step-N/`; or a file per rank of its shards."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from common import State, main, result_of
from ranks import on_ranks
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

KIND = os.environ.get("KIND", "dcp")
STEPS = (2, 4, 6, 8)


def net() -> nn.Module:
    # 5 rows over two ranks: uneven shards.
    return nn.Sequential(nn.Embedding(16, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 16))


def train(folder: Path) -> None:
    torch.manual_seed(0)
    model = net()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[1], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, 9):
        tokens = torch.randint(0, 16, (4, 3))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in STEPS:
            save(model, optimizer, folder, step)


def save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    if KIND == "ranks":
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model.state_dict()}, folder / f"step{step}_rank{dist.get_rank()}.pt")
        return
    weights, states = get_state_dict(model, optimizer)
    if KIND == "flat":
        dcp.save(weights, checkpoint_id=folder / f"step-{step}")
    else:
        dcp.save({"model": weights, "optim": states, "step": step}, checkpoint_id=folder / f"step-{step}")


def write(folder: Path) -> None:
    on_ranks(train, folder)


def states(folder: Path) -> list[State]:
    if KIND == "ranks":
        on_ranks(gather, folder)
        return [torch.load(folder.parent / f"{folder.name}-full-{step}.pt") for step in STEPS]
    found = []
    for step in STEPS:
        weights = net().state_dict()
        dcp.load(weights if KIND == "flat" else {"model": weights}, checkpoint_id=folder / f"step-{step}")
        found.append(weights)
    return found


def gather(folder: Path) -> None:
    """DTensor's own way from shards to a whole tensor: `full_tensor`."""
    init_device_mesh("cpu", (dist.get_world_size(),))
    for step in STEPS:
        shards = torch.load(folder / f"step{step}_rank{dist.get_rank()}.pt", weights_only=False)["model"]
        whole = {name: value.full_tensor() for name, value in shards.items()}
        if dist.get_rank() == 0:
            torch.save(whole, folder.parent / f"{folder.name}-full-{step}.pt")


def use(folder: Path, result: Path) -> None:
    model = net()
    model.load_state_dict({name.removeprefix("model."): value for name, value in result_of(result).items()})


if __name__ == "__main__":
    main(write, states, use)
