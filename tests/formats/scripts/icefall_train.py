"""icefall, which is in no package registry: checkpoints with the running mean of the model since the first batch.

Follows k2-fsa/icefall, icefall/checkpoint.py (`save_checkpoint_with_global_batch_idx`, `update_averaged_model`,
`average_checkpoints_with_averaged_model`) at commit 72b0aa3f.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path, PosixPath

import torch
from common import State, loads, main, one_step, small_net

AVERAGED = os.environ.get("EMA") == "1"
BATCHES = (10, 20, 30, 40)
PERIOD = 5
BETWEEN = (20, 40)
"""The mean of all models after batch 20, up to batch 40."""


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = small_net()
    model_avg = copy.deepcopy(model).to(torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for batch_idx in range(1, 41):
        loss = one_step(model, optimizer)
        if batch_idx % PERIOD == 0:
            update(model, model_avg, PERIOD / batch_idx)
        if batch_idx in BATCHES:
            params = {
                "batch_idx_train": batch_idx,
                "average_period": PERIOD,
                "best_train_loss": loss,
                "exp_dir": PosixPath("exp"),
                "cur_epoch": 1,
            }
            checkpoint = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": None,
                "grad_scaler": {},
                "sampler": None,
                "model_avg": copy.deepcopy(model_avg).to(torch.float32).state_dict(),
                **params,
            }
            torch.save(checkpoint, folder / f"checkpoint-{batch_idx}.pt")


def update(model: torch.nn.Module, model_avg: torch.nn.Module, share: float) -> None:
    current = model.state_dict()
    for name, value in model_avg.state_dict().items():
        if value.is_floating_point():
            value.mul_(1 - share).add_(current[name], alpha=share)


def states(folder: Path) -> list[State]:
    entry, batches = ("model_avg", BETWEEN) if AVERAGED else ("model", BATCHES)
    return [torch.load(folder / f"checkpoint-{batch}.pt", weights_only=False)[entry] for batch in batches]


def use(folder: Path, result: Path) -> None:
    loads(small_net(), result)


if __name__ == "__main__":
    start, end = BETWEEN
    main(write, states, use, [-start / (end - start), end / (end - start)] if AVERAGED else None)
