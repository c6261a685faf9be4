"""A tiny regression task in the engine's seams, for tests of the mathematics: no images, no config, no entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import TaskError
from ladle_engine.model.binding import Binding, bind
from ladle_engine.model.groups import Grouping, group
from ladle_engine.model.statistics import NoStatistics, RecomputedStatistics, Statistics
from ladle_engine.options import option, parse_options
from ladle_engine.placements.fsdp_model import build_sharded
from ladle_engine.placements.memory_plan import MemoryPlan
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.progress import ignore
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.bases import Linear, MakeBasis, own_lengths
from ladle_engine.subspace.first_reading import measure
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.examples import Examples
from ladle_engine.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    batch_size: int = option(8, "examples a batch", at_least=1)


class ToyData:
    """Inputs x [N, 6] and targets of a fixed nonlinear function."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 6, generator=generator)
        self.y = torch.sin(self.x.sum(dim=1, keepdim=True)) + 0.1 * torch.randn(count, 1, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        return {"x": self.x[indices], "y": self.y[indices]}


class ToyTask:
    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "Regression for tests."
    metrics: ClassVar[tuple[Metric, ...]] = (Metric(name="loss", higher_is_better=False),)
    options_type: ClassVar[type] = ToyOptions

    def __init__(self, build: Callable[[], nn.Module] | None = None, count: int = 64, batch_size: int = 8) -> None:
        self.build = build or plain_net
        self.count = count
        self.batch_size = batch_size
        self._losses_taken = 0

    @property
    def losses_taken(self) -> int:
        """How often a gradient was wanted: once a step of one batch."""
        return self._losses_taken

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> ToyTask:
        parsed = parse_options(ToyOptions, options, owner="toy", error=TaskError, code="invalid-task-options")
        return cls(batch_size=parsed.batch_size)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return self.build()

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str]:
        return {}

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> ToyData:
        return ToyData(self.count)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._losses_taken += 1
        return (model(batch["x"]) - batch["y"]).square().mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self.of_logits(self.logits(model, batch), self.targets(batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs: Tensor = model(batch["x"])
        return outputs

    def targets(self, batch: Batch) -> Tensor:
        return batch["y"]

    def of_logits(self, logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        return {"loss": (logits - targets).square().mean(dim=1)}


class Interrupted(Exception):
    """Stands for a process that dies."""


class DyingState(ResumeState):
    """Saves whenever it may, and dies with the save of `after` losses or more, on every rank."""

    def __init__(self, folder: Path, fingerprint: str, after: int, *, collectives: Collectives | None = None) -> None:
        super().__init__(folder, fingerprint, collectives=collectives)
        self.after = after

    def is_due(self) -> bool:
        return True

    def save(self, key: str, value: Mapping[str, Any]) -> None:
        super().save(key, value)
        if len(value["losses"]) >= self.after:
            raise Interrupted


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


class TiedNet(nn.Module):
    """Two names for one parameter, as in a language model's embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return result


def write_checkpoints(
    folder: Path, build: Callable[[], nn.Module], count: int = 5, spread: float = 0.3, seed: int = 0
) -> CheckpointSet:
    """`count` checkpoints scattered around one random model."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    base = {name: tensor.clone() for name, tensor in build().state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        moved = {
            name: tensor + spread * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point() and "running" not in name
            else tensor + (index if not tensor.is_floating_point() else 0.1 * index)
            for name, tensor in base.items()
        }
        if "second.weight" in moved:
            moved["second.weight"] = moved["first.weight"].clone()
        save_file({name: tensor.contiguous() for name, tensor in moved.items()}, folder / f"step-{index}.safetensors")
    return discover(folder)


def model_weights_for(
    checkpoints: CheckpointSet,
    binding: Binding,
    *,
    precision: str = "float32",
    placement: str = "replicated",
    collectives: Collectives | None = None,
) -> ModelWeights:
    """With one plan, and no trial step."""
    plan = MemoryPlan(placement=placement, precision=precision, parts={}, available_bytes=0, reason="a test")
    return ModelWeights(
        checkpoints=checkpoints,
        binding=binding,
        plans=[plan],
        device=torch.device("cpu"),
        collectives=collectives or SingleProcess(),
        trial=lambda: None,
        on_event=ignore,
    )


def trainer_for(
    checkpoints: CheckpointSet,
    build: Callable[[], nn.Module],
    grouping: Grouping,
    *,
    precision: str = "float32",
    placement: str = "replicated",
    state: ResumeState | None = None,
    collectives: Collectives | None = None,
    examples: int = 61,
) -> Trainer:
    """A training run on the toy's data, outside of any job."""
    collectives = collectives or SingleProcess()
    task = ToyTask(build)
    if placement == "sharded-model":
        model = build_sharded(task, checkpoints, collectives, torch.device("cpu"))
    else:
        model = task.build_model(checkpoints)
    binding = bind(model, checkpoints)
    groups = group(binding, grouping)
    weights = model_weights_for(checkpoints, binding, precision=precision, placement=placement, collectives=collectives)
    chosen = Examples(
        task=task, data=ToyData(3 + examples), indices=torch.arange(3, 3 + examples), device=torch.device("cpu")
    )
    statistics: Statistics = NoStatistics(binding)
    if binding.statistics:
        statistics = RecomputedStatistics(checkpoints, binding, chosen, collectives)
    return Trainer(
        method="twa",
        model=binding.model,
        placement=weights.placement(groups),
        statistics=statistics,
        load_statistics=lambda weights_KG: statistics.load_weights(weights_KG, groups),
        groups=groups,
        examples=chosen,
        collectives=collectives,
        state=state or ResumeState(None, ""),
        on_event=ignore,
    )


def subspace_for(checkpoints: CheckpointSet, trainer: Trainer, basis: MakeBasis = own_lengths) -> Linear:
    """Around the mean of the checkpoints."""
    geometry = measure(checkpoints, bind(trainer.examples.task.build_model(checkpoints), checkpoints), ignore)
    K = len(checkpoints.checkpoints)
    return Linear(
        alpha_0_KG=torch.full((K, len(trainer.groups)), 1 / K, dtype=torch.float64),
        basis=basis(geometry, trainer.groups),
    )
