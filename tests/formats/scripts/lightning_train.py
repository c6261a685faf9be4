"""Lightning: two versions of a run, named checkpoints, `last`, and an average of `EMAWeightAveraging`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import lightning
import torch
from common import State, batch, loads, main, small_net
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

EMA = os.environ.get("EMA") == "1"


class Lit(lightning.LightningModule):
    def __init__(self, lr: float = 0.05, args: argparse.Namespace | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = small_net()

    def training_step(self, examples: list[torch.Tensor], _: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(examples[0]), examples[1])

    def validation_step(self, examples: list[torch.Tensor], _: int) -> None:
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(examples[0]), examples[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


def fit(folder: Path) -> None:
    images, labels = batch()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=4)
    keep = ModelCheckpoint(filename="{epoch}-{step}", monitor="val_loss", save_top_k=-1, save_last=True, mode="min")
    callbacks = [keep, EMAWeightAveraging(decay=0.5)] if EMA else [keep]
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=CSVLogger(folder, name="lightning_logs"),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Lit(args=argparse.Namespace(seed=1, name="run")), loader, loader)


def write(folder: Path) -> None:
    fit(folder)


def checkpoints(folder: Path) -> list[Path]:
    found = (folder / "lightning_logs" / "version_0" / "checkpoints").glob("epoch=*.ckpt")
    return sorted(found, key=lambda path: int(path.name.split("-")[0].removeprefix("epoch=")))


def states(folder: Path) -> list[State]:
    # In a checkpoint of `EMAWeightAveraging` it is the average that `load_from_checkpoint` loads.
    return [Lit.load_from_checkpoint(path, weights_only=False).state_dict() for path in checkpoints(folder)]


def use(folder: Path, result: Path) -> None:
    loads(Lit(), result)


if __name__ == "__main__":
    main(write, states, use)
