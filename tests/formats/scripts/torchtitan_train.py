"""torchtitan: its `CheckpointManager`, on two ranks under FSDP2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import State, main, same
from ranks import on_ranks
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchtitan.components.checkpoint import CheckpointManager

STEPS = (2, 4, 6, 8)


class Optimizers(Stateful):
    """The part of `OptimizersContainer` that the manager asks for."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        return get_optimizer_state_dict(self.model, self.optimizer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_optimizer_state_dict(self.model, self.optimizer, state)

    def init_cache_state_dict(self) -> None:
        return


class TrainState(Stateful):
    """torchtitan/trainer.py keeps its step and the tokens seen like this."""

    step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": torch.tensor(self.step), "ntokens_seen": torch.tensor(self.step * 12)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])


class Plain(Stateful):
    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def net() -> nn.Module:
    return nn.Sequential(nn.Embedding(16, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 16))


def manager(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, train: TrainState, start: Path | None = None
) -> CheckpointManager:
    config = CheckpointManager.Config(
        enable=True,
        folder="checkpoint",
        interval=2,
        keep_latest_k=0,
        initial_load_path=None if start is None else str(start),
    )
    return CheckpointManager(
        config,
        dataloader=Plain({"at": 3}),
        model_parts=[model],
        optimizers=Optimizers(model, optimizer),
        lr_schedulers=Plain({"last_epoch": 1}),
        states={"train_state": train},
        sd_adapter=None,
        base_folder=str(folder),
    )


def sharded() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = fully_shard(net(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(folder: Path) -> None:
    model, optimizer = sharded()
    state = TrainState()
    checkpoints = manager(folder, model, optimizer, state)
    for step in range(1, 9):
        tokens = torch.randint(0, 16, (4, 3))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        state.step = step
        checkpoints.save(step, last_step=False)
    checkpoints.close()


def gather(folder: Path, out: Path) -> None:
    model, optimizer = sharded()
    checkpoints = manager(folder, model, optimizer, TrainState())
    for step in STEPS:
        checkpoints.load(step)
        whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
        if dist.get_rank() == 0:
            torch.save(whole, out / f"{step}.pt")
    checkpoints.close()


def write(folder: Path) -> None:
    on_ranks(train, folder)


def states(folder: Path) -> list[State]:
    out = folder.parent / f"{folder.name}-loaded"
    out.mkdir(exist_ok=True)
    on_ranks(gather, folder, out)
    return [torch.load(out / f"{step}.pt") for step in STEPS]


def use(folder: Path, result: Path) -> None:
    on_ranks(start_from, folder, result)


def start_from(folder: Path, result: Path) -> None:
    """A new run with `initial_load_path`, which wants a folder in DCP format."""
    model, optimizer = sharded()
    checkpoints = manager(folder.parent / "next", model, optimizer, TrainState(), result)
    assert checkpoints.load()
    wanted = load_file(folder.parent / "mean.safetensors")
    same({name: value.full_tensor() for name, value in model.state_dict().items()}, wanted)
    checkpoints.close()


if __name__ == "__main__":
    main(write, states, use)
