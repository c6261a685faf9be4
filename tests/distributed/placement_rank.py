"""One rank of `test_placements`: trains in every placement and writes the coefficients it ends with.

torchrun ... -m tests.distributed.placement_rank <folder>
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ladle_engine.checkpoints import discover
from ladle_engine.collectives import Collectives, SingleProcess, current_collectives
from ladle_engine.placements import BY_NODE, PLACEMENTS, REPLICATED, SHARDED_MODEL
from ladle_engine.state import ResumeState
from ladle_engine.train import TrainSettings
from tests.unit.engine.toy import TiedNet, norm_net, plain_net, subspace_for, trainer_for

SETTINGS = TrainSettings(
    steps=12,
    learning_rate=0.1,
    optimiser="adamw",
    momentum=0.9,
    schedule="cosine",
    warmup_fraction=0.1,
    averaged_fraction=0.5,
    prior="learned",
    l2=0.0,
    sam_radius=0.0,
    seed=3,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training run. `plain_net` has 65 parameters: they divide by neither 2 nor 4 ranks."""

    folder: str
    build: Callable[[], nn.Module]
    grouping: str = "layers"
    settings: TrainSettings = SETTINGS
    examples: int = 61
    precision: str = "float32"


CASES = {
    "plain": Case(folder="plain", build=plain_net),
    "plain, whole model": Case(folder="plain", build=plain_net, grouping="model"),
    "plain, a group a tensor": Case(folder="plain", build=plain_net, grouping="tensors"),
    "tied": Case(folder="tied", build=TiedNet),
    "batch norm": Case(folder="norm", build=norm_net),
    "more ranks than checkpoints": Case(folder="two", build=plain_net),
    # 61 examples in 8 batches: of 7 and 8, which 4 ranks share unevenly.
    "lbfgs, uneven batches": Case(
        folder="plain", build=plain_net, settings=replace(SETTINGS, optimiser="lbfgs", steps=48)
    ),
    "fewer examples than ranks": Case(folder="plain", build=plain_net, examples=3),
    "streamed": Case(folder="plain", build=plain_net, precision="streamed"),
}


def placements_of(case: Case, collectives: Collectives) -> Iterator[str]:
    for placement in PLACEMENTS:
        if placement == "by-checkpoint" and case.precision == "streamed":
            continue
        if placement == SHARDED_MODEL and collectives.size == 1:
            continue
        if placement == BY_NODE and collectives.size < 4:
            continue
        yield placement


def train(folder: Path, case: Case, placement: str, collectives: Collectives, state: Path | None = None) -> Tensor:
    """float64 K x G."""
    checkpoints = discover(folder / case.folder)
    trainer = trainer_for(
        checkpoints,
        case.build,
        case.grouping,
        precision=case.precision,
        placement=placement,
        collectives=collectives,
        examples=case.examples,
        state=ResumeState(state, "f", collectives=collectives, every_s=0.0) if state else None,
    )
    trained = trainer.train(subspace_for(checkpoints, trainer), case.settings)
    trainer.placement.close()
    return trained.weights_KG


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    collectives = current_collectives()
    if collectives.size == 4:
        # Two nodes of two ranks, as torchrun would say it.
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    found = {}
    for name, case in CASES.items():
        for placement in placements_of(case, collectives):
            found[f"{name}/{placement}"] = train(folder, case, placement, collectives)
    # What one process saved in the middle of its run is taken up by these ranks.
    half = folder / "half"
    if half.exists():
        for placement in placements_of(CASES["plain"], collectives):
            found[f"resumed/{placement}"] = train(folder, CASES["plain"], placement, collectives, half)
    torch.save(found, folder / f"ranks-{collectives.size}-{collectives.rank}.pt")
    dist.destroy_process_group()


def alone(folder: Path) -> dict[str, Tensor]:
    """What one process without a process group ends with."""
    return {name: train(folder, case, REPLICATED, SingleProcess()) for name, case in CASES.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
