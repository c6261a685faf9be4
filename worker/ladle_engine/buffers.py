"""Buffers: running statistics are averaged or recomputed, integer counters come from the reference checkpoint.

A mixture of checkpoints needs statistics of its own: those of BatchNorm describe the activations of one model. They are
recomputed on data (as for SWA, Izmailov et al. 2018, section 3.2) where there are enough, else averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ladle_engine.binding import Binding
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.directions import open_all
from ladle_engine.examples import Examples
from ladle_engine.groups import Groups

MIN_EXAMPLES = 512
"""Statistics recomputed over fewer examples are noisier than averaged ones."""
MAX_EXAMPLES = 16_384
"""More examples than this no longer change the statistics."""


class Statistics(Protocol):
    """A policy for the model's floating buffers."""

    name: str

    def training_mode(self) -> None:
        """Puts the model in the mode in which coefficients are trained."""
        ...

    def place(self, alpha_KG: Tensor, groups: Groups) -> None:
        """Called before each training step."""
        ...

    def settle(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        """Fills the buffers for a mixture whose parameters are placed; the values, by name, belong to the result."""
        ...


class NoStatistics:
    """The model has no floating buffers that belong to BatchNorm or the like."""

    name = "none"

    def __init__(self, binding: Binding) -> None:
        self._model = binding.model

    def training_mode(self) -> None:
        self._model.eval()

    def place(self, alpha_KG: Tensor, groups: Groups) -> None:
        return

    def settle(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        return {}


class AveragedStatistics:
    """The checkpoints' statistics, averaged with the mixture's weights.

    Negative weights are set to zero and the rest scaled to sum to 1: a variance cannot be negative.
    """

    name = "averaged"

    def __init__(self, checkpoints: CheckpointSet, model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
        self._model = model
        self._buffers = buffers
        with open_all(checkpoints) as readers:
            self._values_KP = {
                name: torch.stack([reader.read(name).reshape(-1).to(torch.float64) for reader in readers])
                for name in buffers
            }

    def training_mode(self) -> None:
        self._model.eval()

    def place(self, alpha_KG: Tensor, groups: Groups) -> None:
        self.settle(alpha_KG, groups)

    @torch.no_grad()
    def settle(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        settled = {}
        for name, buffer in self._buffers.items():
            alpha_K = alpha_KG[:, groups.of[name]].clamp(min=0)
            averaged_P = (alpha_K / alpha_K.sum()) @ self._values_KP[name]
            buffer.copy_(averaged_P.view_as(buffer))
            settled[name] = buffer.detach().to("cpu", copy=True)
        return settled


class RecomputedStatistics:
    """BatchNorm's statistics over real examples: coefficients are trained on batch statistics, as the network was.

    Floating buffers of other modules are averaged.
    """

    name = "recomputed"

    def __init__(self, checkpoints: CheckpointSet, binding: Binding, examples: Examples) -> None:
        self._model = binding.model
        self._modules = batch_norms(binding.model)
        own = {id(buffer) for module in self._modules for buffer in module.buffers(recurse=False)}
        self._buffers = {name: buffer for name, buffer in binding.statistics.items() if id(buffer) in own}
        others = {name: buffer for name, buffer in binding.statistics.items() if id(buffer) not in own}
        self._others = AveragedStatistics(checkpoints, binding.model, others)
        self._examples = examples.head(MAX_EXAMPLES)

    def training_mode(self) -> None:
        # Only BatchNorm: dropout would add noise to K x G coefficients and regularise nothing.
        self._model.eval()
        for module in self._modules:
            module.train()

    def place(self, alpha_KG: Tensor, groups: Groups) -> None:
        self._others.settle(alpha_KG, groups)

    @torch.no_grad()
    def settle(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        averaged = self._others.settle(alpha_KG, groups)
        with self._cumulative():
            seen = 0
            for batch in self._examples.batches():
                size = len(next(iter(batch.values())))
                if size == 1:
                    # The last one, of its own: one example has no variance, and some modules refuse it.
                    continue
                seen += size
                for module in self._modules:
                    # The cumulative mean, each batch by its size, so that a short last one does not count in full.
                    module.momentum = size / seen
                self._examples.task.evaluate(self._model, batch)
        recomputed = {name: buffer.detach().to("cpu", copy=True) for name, buffer in self._buffers.items()}
        return {**averaged, **recomputed}

    @contextmanager
    def _cumulative(self) -> Iterator[None]:
        momenta = [module.momentum for module in self._modules]
        self.training_mode()
        for module in self._modules:
            module.reset_running_stats()
        try:
            yield
        finally:
            for module, momentum in zip(self._modules, momenta, strict=True):
                module.momentum = momentum
            self._model.eval()


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The modules that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def choose_statistics(
    checkpoints: CheckpointSet, binding: Binding, examples: Examples
) -> tuple[Statistics, str | None]:
    """The policy, and a warning if it is second best."""
    if not binding.statistics:
        return NoStatistics(binding), None
    if not batch_norms(binding.model):
        return AveragedStatistics(checkpoints, binding.model, binding.statistics), None
    if len(examples) >= MIN_EXAMPLES:
        return RecomputedStatistics(checkpoints, binding, examples), None
    return AveragedStatistics(checkpoints, binding.model, binding.statistics), (
        f"BatchNorm statistics are averaged, for recomputing them takes at least {MIN_EXAMPLES} examples, but there "
        f"are {len(examples)}. Name a `train_set` to recompute them on it."
    )
