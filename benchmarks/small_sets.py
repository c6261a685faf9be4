"""Checkpoint sets that take seconds: runs at a constant or a decayed rate, and sweeps, on small real data.

`run` and `sweep` fill an empty folder: checkpoints/, val.* and test.*; `sweep` also ancestor.safetensors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from image_sets import BLUR
from safetensors.torch import save_file
from small_data import CellFeatures, Family, Images, Part, Text, Titles
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training; every so many steps of its last part leave a checkpoint."""

    rate: float
    steps: int
    count: int
    """Checkpoints."""
    every: int
    """Steps between two of them."""
    decayed: bool = False
    """By half a cosine, to nothing; else constant."""
    momentum: bool = False
    """SGD in place of Adam."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Fine-tunes of one ancestor; rates (on a logarithmic scale), steps and label smoothing are drawn by the seed."""

    rates: tuple[float, float]
    steps: tuple[int, int]
    count: int
    ancestor_rate: float = 1e-3
    ancestor_steps: int
    ancestor_of: Family | None = None
    """Other data on which the ancestor was trained; where absent, a part of the same, blurred where it is images."""
    pretrained: bool = False
    """The network comes with weights: there is nothing to train an ancestor for."""


def run(folder: Path, seed: int, family: Family, recipe: Run) -> None:
    train = _begin(folder, seed, family)
    model = family.new_model()
    optimiser: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=0.9)
        if recipe.momentum
        else torch.optim.Adam(model.parameters(), lr=recipe.rate)
    )
    first = recipe.steps - recipe.count * recipe.every
    for step, batch in enumerate(_batches(train, recipe.steps, seed), 1):
        if recipe.decayed:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * 0.5 * (1 + np.cos(np.pi * (step - 1) / recipe.steps))
        _step(family, model, optimiser, batch)
        if step > first and (step - first) % recipe.every == 0:
            _save(model, folder / "checkpoints" / f"step-{step}.safetensors")


def sweep(folder: Path, seed: int, family: Family, recipe: Sweep) -> None:
    train = _begin(folder, seed, family)
    ancestor = family.new_model()
    if not recipe.pretrained:
        other = recipe.ancestor_of
        before = _coarse(train) if other is None else other.splits(seed)[0]
        _fine_tune(family, ancestor, before, seed, recipe.ancestor_rate, recipe.ancestor_steps)
    _save(ancestor, folder / "ancestor.safetensors")
    draws = np.random.default_rng(seed)
    low, high = np.log(recipe.rates)
    for number in range(1, recipe.count + 1):
        model = copy.deepcopy(ancestor)
        rate, steps = float(np.exp(draws.uniform(low, high))), int(draws.integers(*recipe.steps, endpoint=True))
        smoothing = float(draws.choice([0.0, 0.05, 0.1]))
        _fine_tune(family, model, train, 1000 * seed + number, rate, steps, smoothing)
        _save(model, folder / "checkpoints" / f"run-{number:02}.safetensors")


def _begin(folder: Path, seed: int, family: Family) -> Part:
    """Writes the data and the description; returns what trains."""
    train, val, test = family.splits(seed)
    for name, part in (("val", val), ("test", test)):
        family.save(part, folder / f"{name}.{family.ending}")
    (folder / "checkpoints").mkdir()
    family.save_config(folder / "checkpoints")
    torch.manual_seed(seed)
    return train


def _fine_tune(
    family: Family, model: nn.Module, train: Part, seed: int, rate: float, steps: int, label_smoothing: float = 0.0
) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for batch in _batches(train, steps, seed):
        _step(family, model, optimiser, batch, label_smoothing)


def _batches(train: Part, steps: int, seed: int) -> Iterator[Part]:
    """So many, epoch after epoch; what is left of an epoch is dropped."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(train), generator=generator).split(BATCH_SIZE):
            if len(chosen) < min(BATCH_SIZE, len(train)):
                continue
            if steps == 0:
                return
            steps -= 1
            yield train.at(chosen)


def _step(
    family: Family, model: nn.Module, optimiser: torch.optim.Optimizer, batch: Part, label_smoothing: float = 0.0
) -> None:
    loss = family.loss(model, batch, label_smoothing)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _coarse(train: Part) -> Part:
    """Images of a quarter of the resolution; of anything else, the first tenth."""
    if train.inputs.dtype is not torch.uint8 or train.inputs.dim() < 3:
        return train.at(torch.arange(len(train) // 10))
    images = train.inputs.float()
    planes = images[:, None] if images.dim() == 3 else images
    blurred = F.interpolate(F.avg_pool2d(planes, BLUR), scale_factor=BLUR)
    return Part(inputs=blurred.reshape(images.shape).to(torch.uint8), labels=train.labels)


def _save(model: nn.Module, path: Path) -> None:
    state: Mapping[str, Tensor] = model.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt"})


def _digits(*, batch_norm: bool = False) -> Images:
    return Images(data="digits", sizes=(500, 520), width=16, batch_norm=batch_norm)


def _mnist(*, batch_norm: bool = False) -> Images:
    return Images(data="mnist", sizes=(1_500, 1_000), batch_norm=batch_norm)


def _fashion(*, batch_norm: bool = False) -> Images:
    return Images(data="fashion", sizes=(6_000, 2_000), batch_norm=batch_norm)


def _icons(*, batch_norm: bool = False) -> Images:
    return Images(data="icons", sizes=(1_000, 700), batch_norm=batch_norm)


def _cells(*, batch_norm: bool = False) -> Images:
    return Images(data="cells", sizes=(1_000, 700), batch_norm=batch_norm)


TITLES = Titles(sizes=(8_000, 2_000))
DOCS, SOURCES = (Text(data=data, sizes=(8_000, 800)) for data in ("docs", "sources"))

SMALL: dict[str, tuple[Family, Run | Sweep]] = {
    "digits-sgd": (_digits(), Run(rate=0.05, momentum=True, steps=250, count=10, every=16)),
    "digits-decayed": (_digits(), Run(rate=0.05, momentum=True, steps=250, count=10, every=16, decayed=True)),
    "digits-sweep": (_digits(), Sweep(rates=(5e-4, 5e-3), steps=(60, 160), count=8, ancestor_steps=60)),
    "digits-bn-sweep": (
        _digits(batch_norm=True),
        Sweep(rates=(5e-4, 5e-3), steps=(60, 160), count=8, ancestor_steps=60),
    ),
    "mnist-adam": (_mnist(), Run(rate=2e-3, steps=350, count=12, every=24)),
    "mnist-bn-decayed": (_mnist(batch_norm=True), Run(rate=2e-3, steps=300, count=10, every=24, decayed=True)),
    "mnist-from-fashion": (
        _mnist(),
        Sweep(rates=(5e-4, 4e-3), steps=(40, 140), count=8, ancestor_steps=150, ancestor_of=_fashion()),
    ),
    "titles-adam": (TITLES, Run(rate=3e-3, steps=600, count=16, every=30)),
    "titles-decayed": (TITLES, Run(rate=4e-3, steps=600, count=10, every=50, decayed=True)),
    "titles-many": (TITLES, Run(rate=2e-3, steps=640, count=40, every=14)),
    "titles-sweep": (TITLES, Sweep(rates=(1e-3, 8e-3), steps=(80, 240), count=8, ancestor_steps=200)),
    "fashion-adam": (_fashion(), Run(rate=1e-3, steps=550, count=10, every=50)),
    "fashion-decayed": (_fashion(), Run(rate=2e-3, steps=500, count=10, every=44, decayed=True)),
    "fashion-bn-adam": (_fashion(batch_norm=True), Run(rate=1e-3, steps=450, count=12, every=32)),
    "fashion-bn-decayed": (_fashion(batch_norm=True), Run(rate=2e-3, steps=400, count=10, every=34, decayed=True)),
    "fashion-sgd-high": (_fashion(), Run(rate=0.05, momentum=True, steps=450, count=12, every=32)),
    "fashion-sweep": (_fashion(), Sweep(rates=(7e-4, 4e-3), steps=(40, 120), count=8, ancestor_steps=150)),
    "icons-adam": (_icons(), Run(rate=1e-3, steps=240, count=12, every=16)),
    "icons-bn-decayed": (_icons(batch_norm=True), Run(rate=2e-3, steps=300, count=10, every=24, decayed=True)),
    "icons-sweep": (_icons(), Sweep(rates=(5e-4, 4e-3), steps=(50, 140), count=8, ancestor_steps=100)),
    "cells-adam": (_cells(), Run(rate=1e-3, steps=240, count=12, every=16)),
    "cells-bn-adam": (_cells(batch_norm=True), Run(rate=1e-3, steps=200, count=10, every=16)),
    "cells-pretrained": (
        CellFeatures(sizes=(1_000, 700)),
        Sweep(rates=(1e-4, 6e-4), steps=(30, 80), count=8, ancestor_steps=0, pretrained=True),
    ),
    "docs-adam": (DOCS, Run(rate=4e-3, steps=260, count=12, every=14)),
    "docs-decayed": (DOCS, Run(rate=5e-3, steps=240, count=10, every=18, decayed=True)),
    "sources-adam": (SOURCES, Run(rate=4e-3, steps=260, count=12, every=14)),
    "sources-from-docs": (
        SOURCES,
        Sweep(rates=(5e-4, 4e-3), steps=(25, 80), count=8, ancestor_steps=200, ancestor_rate=4e-3, ancestor_of=DOCS),
    ),
}
"""Name -> the data and the recipe."""


def maker(name: str) -> partial[None]:
    """Of a folder, given the folder and a seed."""
    family, recipe = SMALL[name]
    if isinstance(recipe, Run):
        return partial(run, family=family, recipe=recipe)
    return partial(sweep, family=family, recipe=recipe)
