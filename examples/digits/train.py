"""Trains a small CNN on scikit-learn's handwritten digits and leaves a checkpoint after every epoch.

    python examples/digits/train.py FOLDER

FOLDER/checkpoints/epoch-01.safetensors ... and config.json, FOLDER/val.npz for Ladle, and FOLDER/test.npz, which Ladle
never sees.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ladle_small_cnn import SmallCnn
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor

ARCHITECTURE = {"num_channels": 1, "num_classes": 10, "image_size": 8, "width": 16, "batch_norm": False}
NUM_TRAIN, NUM_VAL = 700, 520
"""Of 1,797 images; the rest is the test set."""
EPOCHS = 18


def train(folder: Path, seed: int = 0, epochs: int = EPOCHS) -> None:
    """An ordinary recipe: SGD with momentum at a constant, lively rate, and random shifts by one pixel."""
    images, labels = _digits(seed)
    train_images, train_labels = images[:NUM_TRAIN], labels[:NUM_TRAIN]
    val, test = slice(NUM_TRAIN, NUM_TRAIN + NUM_VAL), slice(NUM_TRAIN + NUM_VAL, None)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "val.npz", images=images[val].numpy(), labels=labels[val].numpy())
    np.savez(folder / "test.npz", images=images[test].numpy(), labels=labels[test].numpy())
    (checkpoints / "config.json").write_text(json.dumps({"ladle_task": "small-cnn", **ARCHITECTURE}, indent=2) + "\n")

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SmallCnn(**ARCHITECTURE)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(1, epochs + 1):
        for indices in torch.randperm(NUM_TRAIN, generator=generator).split(32):
            loss = F.cross_entropy(model(_shifted(train_images[indices], generator)), train_labels[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        save_file(model.state_dict(), checkpoints / f"epoch-{epoch:02}.safetensors")


def _digits(seed: int) -> tuple[Tensor, Tensor]:
    """float32 [N, 1, 8, 8] in 0..1 and int64 [N], shuffled."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = torch.tensor(data.images[order], dtype=torch.float32)[:, None] / 16
    return images, torch.tensor(data.target[order], dtype=torch.int64)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    dy, dx = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return torch.roll(images, shifts=(dy, dx), dims=(2, 3))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.seed)
