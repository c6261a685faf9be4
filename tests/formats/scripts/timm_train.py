"""timm: what `train.py` saves (its `CheckpointSaver`, with an average of `ModelEmaV3`)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import timm
import torch
import yaml
from common import State, main, result_of, same
from timm.models import load_checkpoint, load_state_dict
from timm.utils import CheckpointSaver, ModelEmaV3, update_summary

EMA = os.environ.get("EMA") == "1"
MODEL = {"model_name": "test_byobnet", "num_classes": 3, "in_chans": 3}


def write(folder: Path) -> None:
    model = timm.create_model(**MODEL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    args = argparse.Namespace(model=MODEL["model_name"], num_classes=3, lr=0.05, device_modules=None, model_kwargs={})
    ema = ModelEmaV3(model, decay=0.5)
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(yaml.safe_dump(vars(args), default_flow_style=False))
    saver = CheckpointSaver(
        model=model, optimizer=optimizer, args=args, model_ema=ema, checkpoint_dir=folder, recovery_dir=folder
    )
    for epoch in range(4):
        images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, 3, (4,))
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model, step=epoch)
        metrics = {"top1": [50.0, 62.5, 75.0, 70.0][epoch], "loss": loss.item()}
        update_summary(
            epoch, {"loss": loss.item()}, metrics, filename=folder / "summary.csv", lr=0.05, write_header=epoch == 0
        )
        saver.save_checkpoint(epoch, metric=metrics["top1"])


def states(folder: Path) -> list[State]:
    return [load_state_dict(str(folder / f"checkpoint-{epoch}.pth.tar"), use_ema=EMA) for epoch in range(4)]


def use(folder: Path, result: Path) -> None:
    model = timm.create_model(**MODEL)
    load_checkpoint(model, str(result / "model.safetensors"))
    same(model.state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)
