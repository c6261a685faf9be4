"""Buffers of a mixture: running statistics are averaged or made anew, integer counters come from the reference.

Those of BatchNorm describe the activations of one model. They are recomputed on data (as for SWA, Izmailov et al. 2018,
section 3.2), or averaged like weights; `evaluation.statistics_choice` finds out which is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from ladle_engine.checkpoints.readers import open_all, open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, share_of
from ladle_engine.model.batch_norm import RunningNorm, synchronise
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups
from ladle_engine.model.quantisers import quantiser_buffers
from ladle_engine.model.spectral_norm import spectral_vectors
from ladle_engine.tasks.examples import Examples, even_batches

MAX_EXAMPLES = 2_048
"""More examples than this no longer change the statistics (benchmarks/results/batch-norm-rules.md)."""


class Statistics(Protocol):
    """A policy for the model's floating buffers."""

    name: str

    def training_mode(self) -> None:
        """Puts the model in the mode in which coefficients are trained."""
        ...

    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        """Called before each training step, when the parameters are placed."""
        ...

    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        """Fills the buffers for a mixture whose parameters are placed; the values, by name, belong to the result."""
        ...


class NoStatistics:
    """The model has no floating buffers."""

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
    where none is positive, as a user's own may be. What no mean can be taken of is the reference's (quantisers), or is
    found anew from there (spectral norms).
    """

    name = "averaged"

    def __init__(self, checkpoints: CheckpointSet, binding: Binding, names: Iterable[str] | None = None) -> None:
        """`names` are those of some of the buffers."""
        self._model = binding.model
        self._buffers = {name: binding.statistics[name] for name in (binding.statistics if names is None else names)}
        vectors = spectral_vectors(binding.model)
        no_mean = {id(vector) for each in vectors for vector in (each.u, each.v)}
        no_mean |= {id(buffer) for buffer in quantiser_buffers(binding.model)}
        averaged = [name for name, buffer in self._buffers.items() if id(buffer) not in no_mean]
        own = {id(buffer) for buffer in self._buffers.values()}
        self._vectors = [each for each in vectors if id(each.u) in own]
        with open_all(checkpoints.with_base) as readers:
            self._values_KP = {
                name: torch.stack([reader.read(name).reshape(-1).to(torch.float64) for reader in readers])
                for name in averaged
            }
        with open_checkpoint(checkpoints.reference) as reader:
            self._reference = {name: reader.read(name).clone() for name in self._buffers if name not in self._values_KP}

    def training_mode(self) -> None:
        self._model.eval()

    @torch.no_grad()
    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        for name, values_KP in self._values_KP.items():
            buffer = self._buffers[name]
            # The base's are the first, and most mixtures have none of it.
            mean_P = _convex_mean(alpha_KG[:, groups.of[name]], values_KP[-len(alpha_KG) :])
            buffer.copy_(mean_P.view_as(buffer))
        for name, values in self._reference.items():
            self._buffers[name].copy_(values)
        for each in self._vectors:
            each.iterate()

    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        self.load_weights(alpha_KG, groups)
        return _copies(self._buffers)


def _copies(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU."""
    return {name: buffer.detach().to("cpu", copy=True) for name, buffer in buffers.items()}


def _convex_mean(alpha_K: Tensor, values_KP: Tensor) -> Tensor:
    """Of the positive weights, without zeros beside them: so a mixture has the same bits once the run has grown."""
    own_K = alpha_K > 0
    if not bool(own_K.any()):
        return values_KP.mean(dim=0)
    if not bool(own_K.all()):
        alpha_K, values_KP = alpha_K[own_K], values_KP[own_K]
    return alpha_K / alpha_K.sum() @ values_KP


class RecomputedStatistics:
    """BatchNorm's statistics over real examples: coefficients are trained on batch statistics, as the network was.

    Floating buffers of other modules are averaged, and so are those of a BatchNorm that no example reaches.
    """

    name = "recomputed"

    def __init__(
        self, checkpoints: CheckpointSet, binding: Binding, examples: Examples, collectives: Collectives
    ) -> None:
        self._model = binding.model
        self._collectives = collectives
        self._modules = binding.running_norms
        synchronise(self._modules, collectives)
        own = {id(buffer) for module in self._modules for buffer in module.buffers(recurse=False)}
        self._buffers = {name: buffer for name, buffer in binding.statistics.items() if id(buffer) in own}
        others = [name for name in binding.statistics if name not in self._buffers]
        self._averaged = AveragedStatistics(checkpoints, binding, self._buffers)
        self._others = AveragedStatistics(checkpoints, binding, others)
        self._examples = examples.sample(MAX_EXAMPLES)
        self.values_per_channel = 0
        """Behind the last statistics, where they were fewest: positions times examples."""

    @property
    def num_examples(self) -> int:
        return len(self._examples)

    def training_mode(self) -> None:
        # Only BatchNorm: dropout would add noise to K x G coefficients and regularise nothing.
        self._model.eval()
        for module in self._modules:
            module.train()

    def load_weights(self, alpha_KG: Tensor, groups: Groups) -> None:
        self._others.load_weights(alpha_KG, groups)

    @torch.no_grad()
    def recompute(self, alpha_KG: Tensor, groups: Groups) -> Mapping[str, Tensor]:
        self._averaged.load_weights(alpha_KG, groups)
        others = self._others.recompute(alpha_KG, groups)
        task, indices = self._examples.task, self._examples.indices
        self.training_mode()
        with self._taking_means() as means, self._collectives.translate_collective_errors():
            for batch in even_batches(indices, task.batch_size):
                _, share = share_of(len(batch), self._collectives)
                own = batch[share]
                means.begin(len(batch), len(own))
                task.evaluate(self._model, self._examples.batch(own))
        self._model.eval()
        self.values_per_channel = means.values_per_channel
        return {**others, **_copies(self._buffers)}

    @contextmanager
    def _taking_means(self) -> Iterator[_Means]:
        momenta = [module.momentum for module in self._modules]
        means = _Means()
        hooks = [module.register_forward_pre_hook(means.before, with_kwargs=True) for module in self._modules]
        try:
            yield means
        finally:
            for hook in hooks:
                hook.remove()
            for module, momentum in zip(self._modules, momenta, strict=True):
                module.momentum = momentum


class _Means:
    """Makes running statistics the mean over batches, each by its size, however often a module is called in one."""

    def __init__(self) -> None:
        self._seen: dict[RunningNorm, int] = {}
        self._values: dict[RunningNorm, float] = {}
        self._batch = self._own = 0

    def begin(self, batch: int, own: int) -> None:
        """How many examples the next batch has, and how many of them are this rank's."""
        self._batch, self._own = batch, own

    def before(self, module: RunningNorm, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
        """What the running statistics were no longer counts after the first call: the momentum is 1."""
        self._seen[module] = self._seen.get(module, 0) + self._batch
        module.momentum = self._batch / self._seen[module]
        values = next(iter((*args, *kwargs.values())))
        own_values = values.numel() / values.shape[1]
        self._values[module] = self._values.get(module, 0.0) + own_values * self._batch / self._own

    @property
    def values_per_channel(self) -> int:
        """In the module that saw the fewest: positions times examples."""
        return round(min(self._values.values(), default=0))
