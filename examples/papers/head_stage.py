"""The head stage: the first part of a schedule, averaged, against the whole schedule.

    python examples/papers/head_stage.py            or, in a minute, on scikit-learn's digits:  ... --quick

A small ResNet learns Fashion-MNIST with SGD. The rate of the whole schedule is 0.1 in the first half of the epochs,
0.01 up to three quarters and 0.001 to the end, as in the papers' runs on CIFAR. The head stage stays at 0.1, leaves a
checkpoint after every half epoch, and ends after 50 or 69 % of the epochs. Ladle averages its checkpoints. All are
judged on images that neither the network nor Ladle has seen. docs/head-stage.md explains how to do this with your own
training.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from comparing import Clock, rounded
from places import made_once
from results import Results, arguments, cache_folder
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sources import fashion_mnist
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ladle_engine import average, candidate_state

Row = dict[str, Any]
Batch = tuple[Tensor, ...]
"""float32 [N, 1, H, W] and int64 [N]."""
RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class Settings:
    data: str = "fashion-mnist"
    train: int = 20_000
    val: int = 2_000
    test: int = 10_000
    epochs: int = 32
    """Of the whole schedule."""
    heads: tuple[int, int] = (16, 22)
    """Epochs of the head stage: half of the schedule, and more."""
    batch: int = 128
    many_steps: int = 500
    """Of coefficients; by default they are trained for at most 100."""


QUICK = Settings(data="digits", train=800, val=200, test=400, epochs=8, heads=(4, 6), batch=32, many_steps=20)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of `average`."""

    method: str
    trained_on: str
    options: Mapping[str, Any]


def jobs(settings: Settings) -> list[Job]:
    """Ladle's defaults on the validation part; TWA on the training part, as in the papers; the same for longer."""
    steps = settings.many_steps
    return [
        Job(method="auto", trained_on="validation part", options={}),
        Job(method="twa", trained_on="training part", options={}),
        Job(method="twa", trained_on=f"training part, {steps} steps", options={"steps": steps}),
    ]


def main() -> None:
    asked = arguments(__doc__)
    settings = QUICK if asked.quick else Settings()
    results = Results("head-stage", asdict(settings), quick=asked.quick)
    for seed in asked.seeds:
        folder = cache_folder("head-stage", quick=asked.quick) / f"seed-{seed}"
        made_once(folder, partial(train_all, seed=seed, settings=settings))
        for epochs in [] if asked.train_only else settings.heads:
            if asked.again or not results.has(seed=seed, models=2 * epochs):
                run = compared(folder, seed, epochs, settings)
                results.add(run)
                show(run)


# 1. The network and its data


class Block(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class SmallResNet(nn.Sequential):
    """Logits [N, 10] of grey images [N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(Block(16, 16, stride=1), Block(16, 32, stride=2), Block(32, 64, stride=2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )


def parts(seed: int, settings: Settings) -> list[Batch]:
    """Training, validation and test part, drawn by the seed; no image is in two of them."""
    if settings.data == "digits":
        digits = load_digits()
        small = torch.tensor(digits.images / 16, dtype=torch.float32)
        images, labels = F.interpolate(small[:, None], scale_factor=3.0), torch.tensor(digits.target)
    else:
        (images, labels), (more_images, more_labels) = fashion_mnist("train"), fashion_mnist("t10k")
        images, labels = torch.cat([images, more_images])[:, None].float() / 255, torch.cat([labels, more_labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    sizes = [settings.train, settings.val, settings.test]
    return [(images[part], labels[part]) for part in order[: sum(sizes)].split(sizes)]


# 2. Training


class Training:
    """SGD with momentum, some epochs at a time."""

    def __init__(self, data: Batch, seed: int, batch: int) -> None:
        self._images, self._labels = data
        self._seed, self._batch = seed, batch
        torch.manual_seed(seed)
        self.model = SmallResNet()
        self._optimiser = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
        self._epochs = self._steps = 0

    def run(self, epochs: int, rate: float, checkpoints: Path | None = None) -> None:
        """More epochs at one rate. Leaves a checkpoint in the middle and at the end of each."""
        self._optimiser.param_groups[0]["lr"] = rate
        for _ in range(epochs):
            self._epochs += 1
            generator = torch.Generator().manual_seed(1_000 * self._seed + self._epochs)
            for half in torch.randperm(len(self._labels), generator=generator).chunk(2):
                for indices in half.split(self._batch):
                    self._step(augmented(self._images[indices], generator), self._labels[indices])
                if checkpoints is not None:
                    save_file(self.model.state_dict(), checkpoints / f"step-{self._steps:05}.safetensors")

    def _step(self, images: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(self.model(images), labels)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self._steps += 1


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to two pixels, and half of the batches mirrored."""
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = torch.roll(images, shifts=(dy, dx), dims=(2, 3))
    return images.flip(3) if torch.rand((), generator=generator) < 0.5 else images


def train_all(folder: Path, seed: int, settings: Settings) -> None:
    """Fills `folder`: head/ with its checkpoints, whole.safetensors, short.safetensors, and the CPU seconds of each."""
    data, quarter = parts(seed, settings)[0], settings.epochs // 4
    half, longer = settings.heads
    (folder / "head").mkdir()

    clock, head = Clock(), Training(data, seed, settings.batch)
    head.run(half, RATE, folder / "head")
    cpu_s = {str(half): clock.seconds()}

    clock, whole = Clock(), copy.deepcopy(head)
    whole.run(quarter, RATE / 10)
    whole.run(quarter, RATE / 100)
    save_file(whole.model.state_dict(), folder / "whole.safetensors")
    cpu_s["whole"] = cpu_s[str(half)] + clock.seconds()

    clock = Clock()
    head.run(longer - half, RATE, folder / "head")
    cpu_s[str(longer)] = cpu_s[str(half)] + clock.seconds()

    # The same schedule in half of the epochs: what one would do without averaging.
    clock, short = Clock(), Training(data, seed, settings.batch)
    short.run(quarter, RATE)
    short.run(quarter // 2, RATE / 10)
    short.run(quarter // 2, RATE / 100)
    save_file(short.model.state_dict(), folder / "short.safetensors")
    cpu_s["short"] = clock.seconds()
    (folder / "cpu_s.json").write_text(json.dumps(cpu_s))


# 3. Averaging, and what everything scores on the test part


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Of each image, [N]."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def metrics_of(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"accuracy": model(batch[0]).argmax(dim=1) == batch[1]}


def compared(folder: Path, seed: int, epochs: int, settings: Settings) -> dict[str, Any]:
    """A head stage of so many epochs, its averages, and the two schedules with a falling rate."""
    test, cpu_s = parts(seed, settings)[2], json.loads((folder / "cpu_s.json").read_text())
    checkpoints = sorted((folder / "head").iterdir())[: 2 * epochs]
    singles = (
        ("sgd-whole", folder / "whole.safetensors", settings.epochs, cpu_s["whole"]),
        ("sgd-short", folder / "short.safetensors", settings.epochs // 2, cpu_s["short"]),
        ("last", checkpoints[-1], epochs, cpu_s[str(epochs)]),
    )
    rows = [row(method, load_file(file), test, taken, seconds) for method, file, taken, seconds in singles]
    for job in jobs(settings):
        rows += averaged(job, checkpoints, seed, settings, cost=(epochs, cpu_s[str(epochs)]))
    return {"seed": seed, "models": len(checkpoints), "test_examples": len(test[1]), "rows": rows}


def averaged(job: Job, checkpoints: list[Path], seed: int, settings: Settings, cost: tuple[int, int]) -> list[Row]:
    """What a job returns; of `auto`, all that it tried."""
    train, val, test = parts(seed, settings)
    with tempfile.TemporaryDirectory() as temporary:
        clock = Clock()
        outcome = average(
            checkpoints[0].parent,
            steps=[int(path.stem.partition("-")[2]) for path in checkpoints],
            model=SmallResNet,
            loss=loss_of,
            metrics=metrics_of,
            data=TensorDataset(*val),
            train_set=TensorDataset(*train) if job.trained_on.startswith("training") else None,
            method=job.method,
            method_options=job.options,
            seed=seed,
            output=Path(temporary) / "better",
        )
        seconds = cost[1] + clock.seconds()
        rows = []
        for candidate in outcome.candidates:
            if job.method in ("auto", candidate.method):
                state = candidate_state(outcome.folder, checkpoints[0].parent, candidate.method)
                made = row(candidate.method, state, test, cost[0], seconds)
                returned = job.method == "auto" and candidate.method == outcome.method
                made |= {"trained_on": job.trained_on, "winner": returned, "select": rounded(candidate.select)}
                rows.append(made)
    return rows


@torch.no_grad()
def row(method: str, state: Mapping[str, Tensor], test: Batch, epochs: int, cpu_s: int) -> Row:
    """Test accuracy and loss, the epochs of training, and the CPU seconds of training and averaging."""
    model = SmallResNet().eval()
    model.load_state_dict(state)
    logits = torch.cat([model(images) for images in test[0].split(500)])
    accuracy = (logits.argmax(dim=1) == test[1]).double().mean()
    scores = {"accuracy": float(accuracy), "loss": float(F.cross_entropy(logits, test[1]))}
    return {"method": method, "test": rounded(scores), "cost": {"epochs": epochs, "cpu_s": cpu_s}}


def show(run: Mapping[str, Any]) -> None:
    print(f"\nseed {run['seed']}, {run['models']} checkpoints")
    for found in run["rows"]:
        name = found["method"] + (f" ({found['trained_on']})" if "trained_on" in found else "")
        test, cost = found["test"], found["cost"]
        numbers = (
            f"{100 * test['accuracy']:6.2f} %  loss {test['loss']:.4f}  {cost['epochs']} epochs, {cost['cpu_s']} s"
        )
        print(f"{name:32}{numbers}{'  <- Ladle returns' if found.get('winner') else ''}", flush=True)


if __name__ == "__main__":
    main()
