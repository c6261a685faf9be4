"""Checkpoint sets of image classifiers: digits, Fashion-MNIST at the tail and at the head of training, fine-tunes.

Each function fills an empty folder: checkpoints/, val.npz, test.npz and, for the head stage, train.npz.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ladle_small_cnn import SmallCnn
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sources import REPOSITORY, fashion_mnist
from torch import Tensor

DIGITS_EPOCHS = 18
DIGITS_CUTS = (700, 1220)
"""700 train, 520 validate, 577 test."""
NUM_TRAIN, NUM_VAL, EPOCHS, BATCH_SIZE = 20_000, 4_000, 16, 128
TAIL = 10
"""The tail stage: the last epochs of `EPOCHS`."""
HEAD_EPOCHS, HEAD_PER_EPOCH = 10, 2
"""The head stage: the first epochs, and how many checkpoints are taken in each."""
BLUR = 4
"""The fine-tunes' common ancestor has seen images of a quarter of the resolution."""
NUM_FINE_TUNES, NUM_FINE_TUNE_TRAIN, NUM_FINE_TUNE_VAL = 16, 3_000, 2_000


@dataclass(frozen=True, kw_only=True)
class Images:
    """uint8 [N, H, W] and int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Images:
        return Images(images=self.images[indices], labels=self.labels[indices])

    def save(self, path: Path) -> None:
        np.savez(path, images=self.images.numpy(), labels=self.labels.numpy())


def digits(folder: Path, seed: int) -> None:
    """`examples/digits/train.py`: 18 epochs on 700 digits."""
    script = REPOSITORY / "examples" / "digits" / "train.py"
    subprocess.run([sys.executable, str(script), str(folder), "--seed", str(seed)], check=True)


def digits_batch_norm(folder: Path, seed: int) -> None:
    """The same number of digits, and SGD at the same rate, for a network with BatchNorm."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    pixels = torch.from_numpy(data.images * 255 / 16).to(torch.uint8)
    everything = Images(images=pixels, labels=torch.from_numpy(data.target).to(torch.int64))
    train, val, test = (everything.at(part) for part in order.tensor_split(list(DIGITS_CUTS)))
    val.save(folder / "val.npz")
    test.save(folder / "test.npz")
    model = _new_model(folder / "checkpoints", seed, image_size=8, width=16, batch_norm=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, DIGITS_EPOCHS + 1):
        for chosen in torch.randperm(len(train), generator=generator).split(32):
            _step(model, optimiser, train.at(chosen))
        save_file(model.state_dict(), folder / "checkpoints" / f"epoch-{epoch:02}.safetensors")


def fashion(folder: Path, seed: int, *, batch_norm: bool) -> None:
    """An ordinary recipe, and all its epochs: Adam at its usual rate, batches of 128, no schedule, no augmentation."""
    train, val, test = _splits(seed, NUM_TRAIN, NUM_VAL)
    val.save(folder / "val.npz")
    test.save(folder / "test.npz")
    model = _new_model(folder / "checkpoints", seed, width=8, batch_norm=batch_norm)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, EPOCHS + 1):
        for chosen in torch.randperm(NUM_TRAIN, generator=generator).split(BATCH_SIZE):
            _step(model, optimiser, train.at(chosen))
        save_file(model.state_dict(), folder / "checkpoints" / f"epoch-{epoch:02}.safetensors")


def tail(folder: Path, whole_run: Path) -> None:
    """The last epochs of a run made by `fashion`."""
    (folder / "checkpoints").mkdir()
    files = sorted((whole_run / "checkpoints").glob("*.safetensors"))[-TAIL:]
    for file in [*files, whole_run / "checkpoints" / "config.json"]:
        shutil.copy(file, folder / "checkpoints")
    for name in ("val.npz", "test.npz"):
        shutil.copy(whole_run / name, folder)


def fashion_head(folder: Path, seed: int, *, batch_norm: bool) -> None:
    """The first epochs of SGD at a constant, high rate (paper, section 5.1), with the training set for TWA-t."""
    train, val, test = _splits(seed, NUM_TRAIN, NUM_VAL)
    train.save(folder / "train.npz")
    val.save(folder / "val.npz")
    test.save(folder / "test.npz")
    model = _new_model(folder / "checkpoints", seed, width=8, batch_norm=batch_norm)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    number = 0
    for _ in range(HEAD_EPOCHS):
        order = torch.randperm(NUM_TRAIN, generator=generator)
        for part in order.chunk(HEAD_PER_EPOCH):
            for chosen in part.split(BATCH_SIZE):
                _step(model, optimiser, train.at(chosen))
            number += 1
            save_file(model.state_dict(), folder / "checkpoints" / f"checkpoint-{number:02}.safetensors")


def fine_tunes(folder: Path, seed: int) -> None:
    """Model soups (Wortsman et al. 2022): one ancestor, trained on blurred images; fine-tunes on few sharp ones.

    They differ in learning rate, number of epochs, augmentation, label smoothing and the order of the images.
    """
    train, val, test = _splits(seed, NUM_TRAIN + NUM_FINE_TUNE_TRAIN, NUM_FINE_TUNE_VAL)
    val.save(folder / "val.npz")
    test.save(folder / "test.npz")
    blurred = _blurred(train.at(torch.arange(NUM_TRAIN)))
    few = train.at(torch.arange(NUM_TRAIN, NUM_TRAIN + NUM_FINE_TUNE_TRAIN))
    model = _new_model(folder / "checkpoints", seed, width=8, batch_norm=False)
    generator = torch.Generator().manual_seed(seed)
    _train(model, blurred, generator, learning_rate=1e-3, epochs=5)
    ancestor = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = np.random.default_rng(seed)
    for number in range(1, NUM_FINE_TUNES + 1):
        model.load_state_dict(ancestor)
        _train(
            model,
            few,
            generator,
            learning_rate=float(np.exp(draws.uniform(np.log(7e-4), np.log(4e-3)))),
            epochs=int(draws.integers(6, 17)),
            label_smoothing=float(draws.choice([0.0, 0.05, 0.1])),
            augment=list(AUGMENTATIONS.values())[draws.integers(len(AUGMENTATIONS))],
        )
        save_file(model.state_dict(), folder / "checkpoints" / f"run-{number:02}.safetensors")


def _splits(seed: int, num_train: int, num_val: int) -> tuple[Images, Images, Images]:
    """Training and validation images are drawn by the seed; the test images are always the same 10,000."""
    images, labels = fashion_mnist("train")
    everything = Images(images=images, labels=labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test_images, test_labels = fashion_mnist("t10k")
    return (
        everything.at(order[:num_train]),
        everything.at(order[num_train : num_train + num_val]),
        Images(images=test_images, labels=test_labels),
    )


def _new_model(checkpoints: Path, seed: int, *, width: int, batch_norm: bool, image_size: int = 28) -> SmallCnn:
    """A model with seeded weights; its description goes into the new folder `checkpoints`."""
    checkpoints.mkdir()
    sizes = {"num_channels": 1, "num_classes": 10, "image_size": image_size, "width": width}
    (checkpoints / "config.json").write_text(json.dumps({"ladle_task": "small-cnn", **sizes, "batch_norm": batch_norm}))
    torch.manual_seed(seed)
    return SmallCnn(**sizes, batch_norm=batch_norm)


def _step(
    model: SmallCnn,
    optimiser: torch.optim.Optimizer,
    batch: Images,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    generator: torch.Generator | None = None,
    label_smoothing: float = 0.0,
) -> None:
    pixels = batch.images.float()[:, None] / 255
    if augment is not None and generator is not None:
        pixels = augment(pixels, generator)
    loss = F.cross_entropy(model(pixels), batch.labels, label_smoothing=label_smoothing)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _train(
    model: SmallCnn,
    train: Images,
    generator: torch.Generator,
    *,
    learning_rate: float,
    epochs: int,
    label_smoothing: float = 0.0,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train), generator=generator).split(BATCH_SIZE):
            _step(model, optimiser, train.at(chosen), augment, generator, label_smoothing)


def _blurred(sharp: Images) -> Images:
    coarse = F.avg_pool2d(sharp.images.float()[:, None], BLUR)
    images = F.interpolate(coarse, scale_factor=BLUR)[:, 0].to(torch.uint8)
    return Images(images=images, labels=sharp.labels)


def _shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """By up to two pixels each way."""
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return torch.roll(pixels, shifts=(dy, dx), dims=(2, 3))


def _mirrored(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images."""
    flips = torch.rand(len(pixels), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flips, pixels.flip(3), pixels)


def _masked(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A square of 8 x 8 pixels, the same in all images of a batch, is set to black."""
    y, x = torch.randint(0, pixels.shape[-1] - 7, (2,), generator=generator).tolist()
    pixels = pixels.clone()
    pixels[:, :, y : y + 8, x : x + 8] = 0
    return pixels


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor] | None] = {
    "none": None,
    "shift": _shifted,
    "mirror": _mirrored,
    "mask": _masked,
}
