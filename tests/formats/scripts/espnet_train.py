"""ESPnet: what espnet2's trainer saves each epoch, and its own loading in `average_nbest_models`.

Its `Trainer` needs compiled audio libraries, so the five lines that save follow espnet2/train/trainer.py of the
release that is installed, 202511; `Reporter` is the real one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import State, loads, main, one_step, small_net
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    reporter = Reporter()
    for iepoch in range(1, 5):
        reporter.set_epoch(iepoch)
        with reporter.observe("train") as sub_reporter:
            loss = one_step(model, optimizer)
            sub_reporter.register({"loss": torch.tensor(loss)})
            sub_reporter.next()
        with reporter.observe("valid") as sub_reporter:
            sub_reporter.register({"acc": torch.tensor(1 - loss / 10)})
            sub_reporter.next()
        model_state_dict = model.state_dict()
        torch.save(
            {
                "model": model_state_dict,
                "reporter": reporter.state_dict(),
                "optimizers": [optimizer.state_dict()],
                "schedulers": [None],
                "scaler": None,
            },
            folder / "checkpoint.pth",
        )
        torch.save(model_state_dict, folder / f"{iepoch}epoch.pth")
        latest = folder / "latest.pth"
        latest.unlink(missing_ok=True)
        latest.symlink_to(f"{iepoch}epoch.pth")
    best = reporter.get_best_epoch("valid", "acc", "max")
    (folder / "valid.acc.best.pth").symlink_to(f"{best}epoch.pth")
    average_nbest_models(folder, reporter, [("valid", "acc", "max")], nbest=4)


def states(folder: Path) -> list[State]:
    # As `average_nbest_models` loads them.
    return [torch.load(folder / f"{epoch}epoch.pth", map_location="cpu") for epoch in (1, 2, 3, 4)]


def use(folder: Path, result: Path) -> None:
    loads(small_net(), result)


if __name__ == "__main__":
    main(write, states, use)
