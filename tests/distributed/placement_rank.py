"""One rank of `test_placements`: trains in every placement, dies, goes on, and writes the coefficients it ends with.

torchrun ... -m tests.distributed.placement_rank <folder> <name of this start>
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ladle_engine.checkpoints import discover
from ladle_engine.distributed.collectives import Collectives, SingleProcess, current_collectives
from ladle_engine.placements.base import BY_NODE, PLACEMENTS, REPLICATED, SHARDED_MODEL
from ladle_engine.resume_state import ResumeState
from ladle_engine.training import train as training
from ladle_engine.training.settings import TrainSettings
from tests.distributed.start import end_rank
from tests.unit.engine.toy import (
    DyingState,
    Interrupted,
    TiedNet,
    norm_net,
    plain_net,
    subspace_for,
    trainer_for,
)

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


AGAIN = "2-again"
"""The start of two ranks that only goes on from what four ranks saved."""

DIES_AFTER, LEFT = 14, 6
"""Steps of the case `plain`: by the fourteenth a learned prior has been fitted, so its state matters."""

CASES = {
    "plain": Case(folder="plain", build=plain_net, settings=replace(SETTINGS, steps=DIES_AFTER + LEFT)),
    "plain, whole model": Case(folder="plain", build=plain_net, grouping="model"),
    "plain, a group a tensor": Case(folder="plain", build=plain_net, grouping="tensors"),
    "tied": Case(folder="tied", build=TiedNet),
    "batch norm": Case(folder="norm", build=norm_net),
    "more ranks than checkpoints": Case(folder="two", build=plain_net),
    # 61 examples in 8 batches: of 7 and 8, which 4 ranks share unevenly.
    "lbfgs, uneven batches": Case(
        folder="plain", build=plain_net, settings=replace(SETTINGS, optimiser="lbfgs", steps=6)
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


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one training run ended with."""

    weights_KG: Tensor
    """float64."""
    steps: int
    """Those that were really trained, here and now."""


def train(folder: Path, case: Case, placement: str, collectives: Collectives, state: ResumeState | None = None) -> Run:
    checkpoints = discover(folder / case.folder)
    trainer = trainer_for(
        checkpoints,
        case.build,
        case.grouping,
        precision=case.precision,
        placement=placement,
        collectives=collectives,
        examples=case.examples,
        state=state,
    )
    trained = training.train(trainer, subspace_for(checkpoints, trainer), case.settings)
    trainer.placement.close()
    return Run(weights_KG=trained.weights_KG, steps=trainer.examples.task.losses_taken)


def die(folder: Path, placement: str, collectives: Collectives) -> None:
    """Leaves what the case `plain` had saved when it died, in a folder that is named after who saved it."""
    state = DyingState(folder / "states" / f"{collectives.size} {placement}", "f", DIES_AFTER, collectives=collectives)
    with suppress(Interrupted):
        train(folder, CASES["plain"], placement, collectives, state)
    # Until rank 0 has written, nobody reads.
    collectives.all_reduce(torch.zeros(1))


def go_on(folder: Path, saved: str, placement: str, collectives: Collectives) -> Run:
    """From a saved state, which stays as it is for the next one."""
    state = ResumeState(folder / "states" / saved, "f", collectives=collectives, every_s=math.inf)
    return train(folder, CASES["plain"], placement, collectives, state)


def continuations(saved: Iterable[str], placements: Sequence[str], ranks: int) -> Iterator[tuple[str, str]]:
    """`(saved state, placement to go on in)`: what one process saved in each, the others in their own and the next."""
    for state in sorted(saved):
        saved_by, saved_in = state.split()
        if saved_by == "1":
            yield from ((state, placement) for placement in placements)
            continue
        if saved_by == str(ranks):
            yield state, saved_in
        yield state, placements[(PLACEMENTS.index(saved_in) + 1) % len(placements)]


def main(folder: Path, start: str) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    collectives = current_collectives()
    if collectives.size == 4:
        # Two nodes of two ranks, as torchrun would say it.
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    plain = tuple(placements_of(CASES["plain"], collectives))
    trained: dict[str, Tensor] = {}
    if start != AGAIN:
        for name, case in CASES.items():
            for placement in placements_of(case, collectives):
                trained[f"{name}/{placement}"] = train(folder, case, placement, collectives).weights_KG
        # A rank alone would go on with what one process has saved before.
        for placement in plain if collectives.size > 1 else ():
            die(folder, placement, collectives)
    saved = [path.name for path in (folder / "states").iterdir()]
    if start == AGAIN:
        saved = [state for state in saved if state.startswith("4 ")]
    resumed = {
        f"{state}/{placement}": go_on(folder, state, placement, collectives)
        for state, placement in continuations(saved, plain, collectives.size)
    }
    said = {
        "trained": trained,
        "resumed": {key: run.weights_KG for key, run in resumed.items()},
        "steps": {key: run.steps for key, run in resumed.items()},
    }
    torch.save(said, folder / f"{start}-{collectives.rank}.pt")
    end_rank()


def alone(folder: Path) -> dict[str, Tensor]:
    """What one process without a process group ends with."""
    return {name: train(folder, case, REPLICATED, SingleProcess()).weights_KG for name, case in CASES.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
