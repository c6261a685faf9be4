"""torchvision's references/classification: what `train.py` saves through `utils.save_on_master`.

The wheel has no references: this follows pytorch/vision, references/classification/train.py and utils.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from common import State, loads, main, one_step, small_net
from torch.optim.swa_utils import AveragedModel

EMA = os.environ.get("EMA") == "1"


class ExponentialMovingAverage(AveragedModel):
    """references/classification/utils.py."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        def ema_avg(avg_model_param: torch.Tensor, model_param: torch.Tensor, num_averaged: int) -> torch.Tensor:
            return decay * avg_model_param + (1 - decay) * model_param

        super().__init__(model, "cpu", ema_avg, use_buffers=True)


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    args = argparse.Namespace(model="small", epochs=4, output_dir=str(folder), lr=0.05)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model_ema = ExponentialMovingAverage(model, decay=0.5)
    for epoch in range(4):
        one_step(model, optimizer)
        model_ema.update_parameters(model)
        lr_scheduler.step()
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": lr_scheduler.state_dict(),
            "epoch": epoch,
            "args": args,
            "model_ema": model_ema.state_dict(),
        }
        torch.save(checkpoint, folder / f"model_{epoch}.pth")
        torch.save(checkpoint, folder / "checkpoint.pth")


def states(folder: Path) -> list[State]:
    loaded = [torch.load(folder / f"model_{epoch}.pth", weights_only=False) for epoch in range(4)]
    if not EMA:
        # `--test-only`: `model_without_ddp.load_state_dict(checkpoint["model"])`.
        return [each["model"] for each in loaded]
    found = []
    for each in loaded:
        model_ema = ExponentialMovingAverage(small_net(), 0.5)
        model_ema.load_state_dict(each["model_ema"])
        found.append(model_ema.module.state_dict())
    return found


def use(folder: Path, result: Path) -> None:
    loads(small_net(), result)


if __name__ == "__main__":
    main(write, states, use)
