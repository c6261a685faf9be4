"""Small whole jobs: a task, networks and checkpoints made here, run through `ladle_engine.average` on any device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpu.switches import convolutions
from ladle_engine import average
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.options import option
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.tasks.base import Batch, Metric

SIDE = 8
"""Images are 1 x SIDE x SIDE."""
CLASSES = 5


def perceptron() -> nn.Module:
    """11,000 parameters, so that rows span many blocks of the kernels, and no length is a multiple of one."""
    width = 97
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.Tanh(), nn.Linear(width, 47), nn.Tanh(), nn.Linear(47, CLASSES)
    )


def batch_norm_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.Tanh()),
        *(nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(24 * (SIDE // 2) ** 2, CLASSES)),
    )


def wide() -> nn.Module:
    """16 million parameters, so that directions take more memory than what is passing."""
    width = 4000
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()),
        nn.Linear(width, CLASSES),
    )


NETS: dict[str, Callable[[], nn.Module]] = {"perceptron": perceptron, "batch-norm": batch_norm_net, "wide": wide}


@dataclass(frozen=True, kw_only=True)
class ImagesOptions:
    batch_size: int = option(64, "images a batch", at_least=1)


class Images:
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Tensor) -> Batch:
        return {"images": self._images[indices], "labels": self._labels[indices]}


class MadeImages:
    """Classifies the images that `make` writes."""

    name: ClassVar[str] = "gpu-check"
    summary: ClassVar[str] = "Small made images, for checks."
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)
    options_type: ClassVar[type] = ImagesOptions

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.batch_size = ImagesOptions().batch_size
        self._build = build
        self.losses_taken = 0
        """How often a gradient was wanted."""

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        return cls(perceptron)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return self._build()

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str]:
        return {}

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> Images:
        stored = load_file(path)
        return Images(stored["images"], stored["labels"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.losses_taken += 1
        return F.cross_entropy(model(batch["images"]), batch["labels"])

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": F.cross_entropy(model(batch["images"]), batch["labels"], reduction="none")}


def make(folder: Path, net: str, *, checkpoints: int = 6, images: int = 1200, spread: float = 0.1) -> None:
    """`folder/checkpoints`, scattered around a network that was trained for a moment, and `folder/val.safetensors`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % CLASSES
    prototypes = torch.randn(CLASSES, 1, SIDE, SIDE, generator=generator)
    pictures = prototypes[labels] + 1.5 * torch.randn(images, 1, SIDE, SIDE, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NETS[net]()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(model(pictures[:256]), labels[:256]).backward()
        optimiser.step()
    (folder / "checkpoints").mkdir(parents=True)
    for number in range(checkpoints):
        state = {
            name: tensor + spread * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point() and "running" not in name
            else tensor.clone()
            for name, tensor in model.state_dict().items()
        }
        save_file(state, folder / "checkpoints" / f"step-{number + 1}.safetensors")
    save_file({"images": pictures, "labels": labels}, folder / "val.safetensors")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run. `rescale` off: no choice among a few that rounding could turn."""

    net: str = "perceptron"
    method: str = "twa-layerwise"
    options: Mapping[str, Any] = field(default_factory=lambda: {"steps": 20, "rescale": False})
    precision: str = "float32"
    placement: str = "auto"
    tf32: bool = False
    """Whether convolutions may round, as is torch's default; a CPU never does."""

    def run(
        self,
        folder: Path,
        device: torch.device,
        output: Path,
        *,
        state: Path | None = None,
        on_event: ProgressCallback = ignore,
    ) -> Done:
        """`folder` is what `make` filled; on ranks other than 0 of several nothing can be read afterwards."""
        task = MadeImages(NETS[self.net])
        with convolutions(tf32=self.tf32):
            outcome = average(
                folder / "checkpoints",
                folder / "val.safetensors",
                output=output,
                task=task,
                method=self.method,
                method_options=dict(self.options),
                precision=self.precision,
                placement=self.placement,
                device=device,
                state_dir=state,
                progress=on_event,
            )
        return Done(folder=output, method=self.method, losses_taken=task.losses_taken, warnings=outcome.warnings)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a job left."""

    folder: Path
    method: str
    losses_taken: int
    warnings: tuple[str, ...]

    @property
    def report(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return read

    @property
    def coefficients(self) -> Tensor:
        """float64, flat: how far from the mean the method went, whether it won or not."""
        chosen = self._chosen
        found = torch.tensor(chosen["alpha"], dtype=torch.float64) - 1 / len(chosen["alpha"])
        random = torch.tensor(chosen.get("random", {}).get("weights", []), dtype=torch.float64)
        return torch.cat([found.flatten(), random.flatten()])

    @property
    def curve(self) -> list[float]:
        """The loss of every training step, or of every pass over all examples."""
        curves = {each["method"]: each["curve"] for each in self.report["candidates"]}
        return list(curves[self.method])

    @property
    def bits(self) -> dict[str, str]:
        """All that a repeated run must have equal to the last bit."""
        return {
            "coefficients": json.dumps(self._chosen, sort_keys=True),
            "loss curve": json.dumps(self.curve),
            "model": hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest(),
        }

    @property
    def _chosen(self) -> dict[str, Any]:
        chosen: dict[str, Any] = json.loads((self.folder / "coefficients.json").read_text())["candidates"][self.method]
        return chosen


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference."""
    return float((one - other).abs().max())
