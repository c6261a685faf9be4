"""Buffers: running statistics are averaged or recomputed, integer counters come from the reference checkpoint.

A mixture of checkpoints needs statistics of its own: those of BatchNorm describe the activations of one model. They are
recomputed on data (as for SWA, Izmailov et al. 2018, section 3.2) where there are enough, else averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, share_of
from ladle_engine.model.batch_norm import batch_norms, synchronise
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups
from ladle_engine.tasks.examples import Examples

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

    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        """Called before each training step."""
        ...

    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        """Fills the buffers for a mixture whose parameters are placed; the values, by name, belong to the result."""
        ...


class NoStatistics:
    """The model has no floating buffers that belong to BatchNorm or the like."""

    name = "none"

    def __init__(self, binding: Binding) -> None:
        self._model = binding.model

    def training_mode(self) -> None:
        self._model.eval()

    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        return

    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        return {}


class AveragedStatistics:
    """The checkpoints' statistics, averaged with the mixture's weights.

    Negative weights are set to zero and the rest scaled to sum to 1: a variance cannot be negative. All are the same
    where none is positive, as a user's own may be.
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

    @torch.no_grad()
    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        for name, buffer in self._buffers.items():
            averaged_P = _convex(alpha_KG[:, groups.of[name]]) @ self._values_KP[name]
            buffer.copy_(averaged_P.view_as(buffer))

    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        self.load_weights(alpha_KG, groups)
        return _copies(self._buffers)


def _copies(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU."""
    return {name: buffer.detach().to("cpu", copy=True) for name, buffer in buffers.items()}


def _convex(alpha_K: Tensor) -> Tensor:
    positive_K = alpha_K.clamp(min=0)
    total = positive_K.sum()
    return positive_K / total if total > 0 else torch.full_like(alpha_K, 1 / len(alpha_K))


class RecomputedStatistics:
    """BatchNorm's statistics over real examples: coefficients are trained on batch statistics, as the network was.

    Floating buffers of other modules are averaged.
    """

    name = "recomputed"

    def __init__(
        self, checkpoints: CheckpointSet, binding: Binding, examples: Examples, collectives: Collectives
    ) -> None:
        self._model = binding.model
        self._collectives = collectives
        self._modules = batch_norms(binding.model)
        if collectives.size > 1:
            synchronise(self._modules, collectives)
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

    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        self._others.load_weights(alpha_KG, groups)

    @torch.no_grad()
    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        averaged = self._others.recompute(alpha_KG, groups)
        indices = self._examples.indices
        with self._cumulative(), self._collectives.translate_collective_errors():
            seen = 0
            for batch in indices.tensor_split(math.ceil(len(indices) / self._examples.task.batch_size)):
                seen += len(batch)
                for module in self._modules:
                    # The cumulative mean, each batch by its size.
                    module.momentum = len(batch) / seen
                _, share = share_of(len(batch), self._collectives)
                self._examples.task.evaluate(self._model, self._examples.batch(batch[share]))
        return {**averaged, **_copies(self._buffers)}

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


def choose_statistics(
    checkpoints: CheckpointSet, binding: Binding, examples: Examples, collectives: Collectives
) -> tuple[Statistics, str | None]:
    """The policy, and a warning if it is second best."""
    if not binding.statistics:
        return NoStatistics(binding), None
    if not batch_norms(binding.model):
        return AveragedStatistics(checkpoints, binding.model, binding.statistics), None
    if len(examples) >= MIN_EXAMPLES:
        return RecomputedStatistics(checkpoints, binding, examples, collectives), None
    return AveragedStatistics(checkpoints, binding.model, binding.statistics), (
        f"BatchNorm statistics are averaged, for recomputing them takes at least {MIN_EXAMPLES} examples, but there "
        f"are {len(examples)}. They are recomputed on a `train_set` that has as many."
    )
