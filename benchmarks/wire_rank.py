"""One rank of `wire.py`: takes a line of JSON for every measurement, trains, and answers with a line of JSON.

RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and GLOO_SOCKET_IFNAME say who it is: python benchmarks/wire_rank.py FOLDER
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, current_collectives
from ladle_engine.methods.trained import TrainedOptions
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import group
from ladle_engine.model.statistics import NoStatistics
from ladle_engine.options import option
from ladle_engine.placements.base import SHARDED_MODEL
from ladle_engine.placements.fsdp_model import build_sharded
from ladle_engine.placements.memory_plan import MemoryPlan
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.progress import ignore
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.bases import Basis, Linear
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.examples import Examples
from ladle_engine.training import train as training
from ladle_engine.training.trainer import Trainer

CPU = torch.device("cpu")
CLASSES = 10
SUM = "sum"
"""Asks for the time of one small sum, where a placement asks for training."""
COLLECTIVE_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Size:
    width: int
    blocks: int
    batch_size: int
    """Over all ranks: each takes its share."""
    checkpoints: int = 8


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.linear(x))


class ResidualNet(nn.Module):
    """Numbered blocks, which the sharded model gathers one by one, and a head."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size.width) for _ in range(size.blocks))
        self.head = nn.Linear(size.width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    batch_size: int = option(1024, "examples a batch", at_least=1)


class NoiseData:
    """Random inputs and classes: only the time and the bytes are asked for."""

    def __init__(self, count: int, width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, width, generator=generator)
        self.y = torch.randint(CLASSES, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        return {"x": self.x[indices], "y": self.y[indices]}


class NoiseTask:
    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "Classification of noise, for the benchmark of placements."
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)
    options_type: ClassVar[type] = NoiseOptions

    def __init__(self, size: Size) -> None:
        self.size = size
        self.batch_size = size.batch_size

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> NoiseTask:
        return cls(Size(**options))

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return ResidualNet(self.size)

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str]:
        return {}

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> NoiseData:
        return NoiseData(2 * self.size.batch_size, self.size.width)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")}


def trainer_for(placement: str, task: NoiseTask, checkpoints: CheckpointSet, world: Collectives) -> Trainer:
    """Collective: a training run as a job makes it, in the placement that is asked for. One group a layer."""
    sharded = placement == SHARDED_MODEL
    model = build_sharded(task, checkpoints, world, CPU) if sharded else task.build_model(checkpoints)
    binding = bind(model, checkpoints)
    groups = group(binding, "layers")
    plan = MemoryPlan(placement=placement, precision="float32", parts={}, available_bytes=0, reason="a benchmark")
    weights = ModelWeights(
        checkpoints=checkpoints,
        binding=binding,
        plans=[plan],
        device=CPU,
        collectives=world,
        trial=lambda: None,
        on_event=ignore,
    )
    data = task.open_data(Path(), checkpoints)
    return Trainer(
        method="twa-layerwise",
        model=binding.model,
        placement=weights.placement(groups),
        statistics=NoStatistics(binding),
        load_statistics=lambda weights_KG: None,
        groups=groups,
        examples=Examples(task=task, data=data, indices=torch.arange(len(data)), device=CPU),
        collectives=world,
        state=ResumeState(None, ""),
        on_event=ignore,
    )


def train(trainer: Trainer, count: int, steps: int) -> dict[str, Any]:
    """Collective: how long this rank took for a step, and the losses of so many from the mean of the checkpoints."""
    settings = TrainedOptions(steps=steps, learning_rate=0.01, averaged_fraction=0.0, prior=None).settings(
        seed=0, per_pass=1
    )
    G = len(trainer.groups)
    basis = Basis(
        matrix_GKM=torch.eye(count, dtype=torch.float64).repeat(G, 1, 1),
        log_variance_MG=torch.zeros(count, G, dtype=torch.float64),
    )
    subspace = Linear(alpha_0_KG=torch.full((count, G), 1 / count, dtype=torch.float64), basis=basis)
    start = time.perf_counter()
    trained = training.train(trainer, subspace, settings)
    return {"seconds": (time.perf_counter() - start) / steps, "losses": trained.losses, "groups": G}


def sum_alone(world: Collectives, numbers: int, repeats: int) -> dict[str, Any]:
    """Collective: the median time of what replicated does at each step, one sum, with nothing else to do."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        world.all_reduce(torch.zeros(numbers, dtype=torch.float64))
        taken.append(time.perf_counter() - start)
    return {"seconds": statistics.median(taken), "losses": [], "groups": 0}


def main(folder: Path) -> None:
    # gloo greets on standard output: the answers keep the pipe for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    size = Size(**json.loads((folder / "size.json").read_text()))
    dist.init_process_group("gloo", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    world = current_collectives()
    checkpoints = discover(folder / "checkpoints")
    task = NoiseTask(size)
    trainers: dict[str, Trainer] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        what = asked["what"]
        if what == SUM:
            groups = len(next(iter(trainers.values())).groups)
            answer = sum_alone(world, size.checkpoints * groups + 1, asked["times"])
        else:
            if what not in trainers:
                trainers[what] = trainer_for(what, task, checkpoints, world)
            answer = train(trainers[what], size.checkpoints, asked["times"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    dist.destroy_process_group()
    # FSDP2's caches keep the group's threads alive, beside which taking the interpreter down may abort.
    os._exit(0)


def write_checkpoints(folder: Path, size: Size) -> int:
    """What `main` reads: `size.checkpoints` models scattered around one. Returns how many parameters a model has."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "size.json").write_text(json.dumps(asdict(size)))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    state = ResidualNet(size).state_dict()
    for index in range(size.checkpoints):
        moved = {name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
        save_file(moved, folder / "checkpoints" / f"step-{index}.safetensors")
    return sum(tensor.numel() for tensor in state.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
