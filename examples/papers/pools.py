"""A pool of fine-tunes under a random search of hyper-parameters: what is common to photographs and texts.

The pool is trained once, on one training part. A seed draws an order of the pool, whose first 8, 18 and 36 are
averaged, and divides what was not trained on into a validation and a test set. Three pools would cost three
times as much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from comparing import Clock
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One draw of the search, as model soups make it."""

    rate: float
    weight_decay: float
    epochs: int
    label_smoothing: float
    augmented: bool
    seed: int
    """Of the order of examples, and of what is augmented."""


@dataclass(frozen=True, kw_only=True)
class Search:
    rates: tuple[float, float]
    epochs: tuple[int, int]
    """From, to."""

    def draw(self, draws: np.random.Generator) -> Setting:
        return Setting(
            rate=_log_uniform(draws, *self.rates),
            weight_decay=_log_uniform(draws, 1e-4, 1e-1),
            epochs=int(draws.integers(self.epochs[0], self.epochs[1] + 1)),
            label_smoothing=float(draws.choice([0.0, 0.1])),
            augmented=bool(draws.integers(2)),
            seed=int(draws.integers(2**31)),
        )


def _log_uniform(draws: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(draws.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of models, and of examples."""

    pool: int = 36
    nested: tuple[int, ...] = (8, 18, 36)
    train: int
    val: int
    test: int


class Pool(Protocol):
    """One network and its data."""

    name: ClassVar[str]
    task: str | type[Task]
    task_options: Mapping[str, Any]
    search: Search
    sizes: Sizes
    batch: ClassVar[int]

    def ancestor(self, checkpoints: Path) -> nn.Module:
        """The pretrained network with a head for all; the first call leaves what lies beside the checkpoints."""
        ...

    def steps(self, setting: Setting) -> int: ...

    def batches(self, setting: Setting) -> Any:
        """An iterator over pairs of the model's inputs and labels, one per step."""
        ...

    def logits(self, model: nn.Module, inputs: Any) -> Tensor: ...

    def write_parts(self, folder: Path, seed: int) -> tuple[Path, Path]:
        """Validation and test set, of examples that were not trained on."""
        ...


def train_pool(pool: Pool, folder: Path) -> Path:
    """Trains what is missing of the pool and returns the folder of its checkpoints."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    settings = [pool.search.draw(draws) for _ in range(pool.sizes.pool)]
    missing = [n for n in range(1, len(settings) + 1) if not _file(checkpoints, n).exists()]
    ancestor = pool.ancestor(checkpoints).state_dict() if missing else {}
    ancestor = {name: tensor.clone() for name, tensor in ancestor.items()}
    for number in missing:
        clock, setting = Clock(), settings[number - 1]
        model = pool.ancestor(checkpoints)
        model.load_state_dict(ancestor)
        loss = fine_tune(pool, model, setting)
        state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
        staged = folder / "unfinished"
        save_file(state, staged, metadata={"format": "pt"})
        staged.rename(_file(checkpoints, number))
        log = {"number": number, **asdict(setting), "last_loss": round(loss, 4), "cpu_s": clock.seconds()}
        with (folder / "runs.jsonl").open("a") as runs:
            runs.write(json.dumps(log) + "\n")
        print(log, flush=True)
    return checkpoints


def _file(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"{_run(number)}.safetensors"


def _run(number: int) -> str:
    return f"run-{number:02}"


def others(pool_size: int, numbers: list[int]) -> list[str] | None:
    """What Ladle is to leave out of the pool."""
    return [f"{_run(number)}*" for number in range(1, pool_size + 1) if number not in numbers] or None


def fine_tune(pool: Pool, model: nn.Module, setting: Setting) -> float:
    """AdamW with a cosine schedule; returns the last loss."""
    torch.manual_seed(setting.seed)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=setting.rate, weight_decay=setting.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, pool.steps(setting))
    loss = torch.tensor(0.0)
    for inputs, labels in pool.batches(setting):
        logits = pool.logits(model, inputs).float()
        loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=setting.label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return loss.item()


def orders(count: int, batch: int, setting: Setting) -> Any:
    """Indices of each step's batch; whole batches only, shuffled anew in each epoch."""
    generator = torch.Generator().manual_seed(setting.seed)
    for _ in range(setting.epochs):
        yield from (part for part in torch.randperm(count, generator=generator).split(batch) if len(part) == batch)


def nested(pool_size: int, sizes: tuple[int, ...], seed: int) -> dict[int, list[int]]:
    """Numbers of the fine-tunes of each size; each holds the smaller ones."""
    order = torch.randperm(pool_size, generator=torch.Generator().manual_seed(seed)).add(1).tolist()
    return {size: sorted(order[:size]) for size in sizes}
