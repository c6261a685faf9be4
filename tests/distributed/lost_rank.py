"""One of several ranks, started without torchrun: rank `argv[1]` dies or hangs in a collective, the others say so."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ladle_engine.checkpoints import discover
from ladle_engine.distributed.collectives import ROLL_CALL_S, ProcessGroup, RankLostError
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.training.trainer import Trainer
from tests.unit.engine.toy import plain_net, trainer_for

TIMEOUT_S = 15


def among_all(collectives: ProcessGroup, leave: Callable[[], None], folder: Path) -> None:
    leave()
    collectives.reduce_scatter(torch.zeros(3000))


def in_a_node(collectives: ProcessGroup, leave: Callable[[], None], folder: Path) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    node = collectives.split_by_node()
    assert collectives.split_by_node() is node, "groups are made once"
    node.all_reduce(torch.zeros(3))
    leave()
    node.reduce_scatter(torch.zeros(3000))
    collectives.all_reduce(torch.zeros(3))


def training_a_sharded_model(collectives: ProcessGroup, leave: Callable[[], None], folder: Path) -> None:
    trainer = sharded(collectives, leave, folder)
    weights_KG = torch.full((5, len(trainer.groups)), 0.2, dtype=torch.float64)
    trainer.loss_and_gradient(weights_KG, torch.arange(8))


def evaluating_a_sharded_model(collectives: ProcessGroup, leave: Callable[[], None], folder: Path) -> None:
    trainer = sharded(collectives, leave, folder)
    evaluate(trainer.model, trainer.examples, collectives)


def sharded(collectives: ProcessGroup, leave: Callable[[], None], folder: Path) -> Trainer:
    """A model between whose two layers a rank leaves: the others gather the second one's parameters without it."""
    checkpoints = discover(folder / "checkpoints")
    trainer = trainer_for(checkpoints, plain_net, "layers", placement="sharded-model", collectives=collectives)
    trainer.model.get_submodule("1").register_forward_hook(lambda *_: leave())
    return trainer


PLACES = {
    "among all": among_all,
    "in a node": in_a_node,
    "training a sharded model": training_a_sharded_model,
    "evaluating a sharded model": evaluating_a_sharded_model,
}


def main(lost: int, how: str, where: str, folder: Path) -> None:
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    collectives = ProcessGroup()
    collectives.all_reduce(torch.zeros(3))

    def leave() -> None:
        if rank != lost:
            return
        if how == "hangs":
            time.sleep(120)
        os._exit(9)

    try:
        PLACES[where](collectives, leave, folder)
    except RankLostError as error:
        (folder / f"said-{rank}").write_text(str(error))
    # Without torchrun rank 0 holds the store, through which the others still ask. Destroying a broken group may hang.
    time.sleep(ROLL_CALL_S)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
