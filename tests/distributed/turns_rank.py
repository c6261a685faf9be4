"""One rank of `test_turns`: trains models whose gradients come in another order than their parameters stand in.

torchrun ... -m tests.distributed.turns_rank <folder>
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ladle_engine.checkpoints import discover
from ladle_engine.distributed.collectives import Collectives, ProcessGroup
from ladle_engine.resume_state import SUFFIX, ResumeState
from ladle_engine.training import train as training
from tests.distributed.placement_rank import SETTINGS
from tests.distributed.start import end_rank
from tests.unit.engine.toy import subspace_for, trainer_for

PLACEMENTS = ("by-parameter", "by-checkpoint")
HALF = 6


class Disordered(nn.Module):
    """The head is used last and stands first, and what stands last is not used: a pooler, as many a backbone has.

    What `faint` says is so small beside the rest that a sum of float64 depends on when it is added.
    """

    LAYER = 32 * 32 + 32

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 1)
        self.layer = nn.ModuleList(nn.Linear(6 if index == 0 else 32, 32) for index in range(12))
        self.faint = nn.Linear(6, 1)
        self.pooler = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        faint: Tensor = 1e-10 * self.faint(x)
        for layer in self.layer:
            x = torch.tanh(layer(x))
        return faint + self.head(x)


class NowAndThen(nn.Module):
    """`extra` takes part where an input is large: on one rank and not the other, in one batch and not the next."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.extra = nn.Linear(6, 1)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.first(x)))
        large = x[:, :1] > 1.0
        return result + torch.where(large, self.extra(x), 0.0) if bool(large.any()) else result


NETS: Mapping[str, Callable[[], nn.Module]] = {"disordered": Disordered, "now-and-then": NowAndThen}


class Watched(ProcessGroup):
    """Counts the elements of gradients that have come and not been sent yet: the most of them, for every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.most: list[int] = []

    def watch(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(lambda *_: self._begin())
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._came)

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        self.waiting -= tensor.numel()
        return super().reduce_scatter(tensor)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        if tensor.dtype is torch.float32:
            self.waiting -= tensor.numel()
        return super().all_reduce(tensor)

    def _begin(self) -> None:
        self.waiting = 0
        self.most.append(0)

    def _came(self, parameter: Tensor) -> None:
        self.waiting += parameter.numel()
        self.most[-1] = max(self.most[-1], self.waiting)


class KeepsHalf(ResumeState):
    """Keeps a copy of what is saved at step `HALF`."""

    def save(self, key: str, value: Mapping[str, Any]) -> None:
        super().save(key, value)
        path = self._path(key + SUFFIX)
        if path is not None and len(value["losses"]) == HALF:
            half = Path(f"{path.parent.parent}-half") / path.parent.name
            half.mkdir(parents=True)
            shutil.copy(path, half)


def train(folder: Path, net: str, placement: str, collectives: Collectives, state: ResumeState | None = None) -> Tensor:
    """float64 K x 1: one group, so all buckets are added up."""
    checkpoints = discover(folder / net)
    trainer = trainer_for(checkpoints, NETS[net], "model", placement=placement, collectives=collectives, state=state)
    if isinstance(collectives, Watched):
        collectives.watch(trainer.model)
    trained = training.train(trainer, subspace_for(checkpoints, trainer), replace(SETTINGS, schedule="constant"))
    trainer.placement.close()
    return trained.weights_KG


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    found: dict[str, Any] = {}
    for net in NETS:
        for placement in PLACEMENTS:
            saved, name = folder / f"state-{net}-{placement}", f"{net}/{placement}"
            watched = Watched()
            state = KeepsHalf(saved, "f", collectives=watched, every_s=0.0)
            found[name] = train(folder, net, placement, watched, state)
            found[f"{name}/most"] = watched.most
            half = ResumeState(Path(f"{saved}-half"), "f", collectives=ProcessGroup())
            found[f"{name}/resumed"] = train(folder, net, placement, ProcessGroup(), half)
    torch.save(found, folder / f"rank-{dist.get_rank()}.pt")
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
