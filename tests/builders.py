"""Small real things to test with: checkpoints of the example plug-in's CNN, trained a little on digits."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ladle_small_cnn import SmallCnn
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor

from ladle_engine import METHODS

CONFIG = {"num_channels": 1, "num_classes": 10, "image_size": 8}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """float32 [1797, 1, 8, 8] in 0..1 and int64 [1797], in a fixed shuffle."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return torch.tensor(data.images[order], dtype=torch.float32)[:, None] / 16, torch.tensor(data.target[order])


@cache
def trained_states(count: int, batch_norm: bool, seed: int, width: int) -> tuple[dict[str, Tensor], ...]:
    """`count` snapshots of one run, a few dozen steps apart."""
    images, labels = digits()
    torch.manual_seed(seed)
    model = SmallCnn(**CONFIG, width=width, batch_norm=batch_norm)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(count):
        for indices in torch.randperm(640, generator=generator).split(32):
            loss = F.cross_entropy(model(images[indices]), labels[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return tuple(states)


def make_checkpoints(folder: Path, count: int = 4, batch_norm: bool = False, seed: int = 0, width: int = 4) -> Path:
    """`folder/epoch-1.safetensors` ... with the `config.json` that the plug-in recognises."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, state in enumerate(trained_states(count, batch_norm, seed, width), start=1):
        save_file(state, folder / f"epoch-{number}.safetensors")
    config = {"ladle_task": "small-cnn", **CONFIG, "width": width, "batch_norm": batch_norm}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_val_set(path: Path, count: int = 300, start: int = 700) -> Path:
    """An `.npz` of digits that the checkpoints have not seen."""
    images, labels = digits()
    part = slice(start, start + count)
    np.savez(path, images=images[part].numpy(), labels=labels[part].numpy())
    return path


def make_inputs(root: Path, count: int = 4) -> Path:
    """`root/checkpoints` and `root/val.npz`, for a job."""
    make_checkpoints(root / "checkpoints", count=count)
    make_val_set(root / "val.npz")
    return root


def quick_options(num_checkpoints: int, steps: int = 12) -> dict[str, dict[str, Any]]:
    """Options with which every method runs, and soon."""
    trained = ("twa", "twa-layerwise", "twa-gram-schmidt", "pca", "psgd", "learned-soup", "random")
    options: dict[str, dict[str, Any]] = {method: {"steps": steps} for method in trained}
    options["random"]["dimensions"] = 3
    options["given"] = {"coefficients": [1.0 / num_checkpoints] * num_checkpoints}
    return options


def make_base(path: Path, checkpoint: Path) -> Path:
    """A file of weights near those of a checkpoint, which pass for what it was trained from."""
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(checkpoint).items()
    }
    save_file(moved, path, metadata={"format": "pt"})
    return path


WITHOUT_BASE = [name for name, method in METHODS.items() if not method.uses_base(method.options_type())]
"""The methods that run on any checkpoints."""
