"""Scores: one value per example and metric, so that two models can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's values on N examples: those of a split, or the first N in the order in which it is evaluated."""

    values: Mapping[str, Tensor]
    """Metric name -> float64 [N]."""

    def __len__(self) -> int:
        """N."""
        return len(next(iter(self.values.values())))

    def means(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.values.items()}

    @property
    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(values).all()) for values in self.values.values())

    def rank_key(self, metric: Metric) -> tuple[float, float]:
        """Larger is better: the metric, then, where that ties, the loss."""
        means = self.means()
        sign = 1.0 if metric.higher_is_better else -1.0
        value = sign * means[metric.name]
        if not self.is_finite:
            return (float("-inf"), float("-inf"))
        return (value, -means["loss"])

    def first(self, count: int) -> Evaluation:
        """The values on so many examples alone."""
        return Evaluation(values={name: values[:count] for name, values in self.values.items()})

    def and_then(self, more: Evaluation) -> Evaluation:
        """With the values on the examples that follow."""
        return Evaluation(values={name: torch.cat([values, more.values[name]]) for name, values in self.values.items()})


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples, metrics: tuple[Metric, ...], collectives: Collectives) -> Evaluation:
    """Collective: batches are dealt to the ranks in turn, and every rank gets the values of all examples, in order.

    What stands in a batch does not depend on the ranks, so a model has the same values on any number of them. Every
    rank calls the model equally often, because a call may itself be collective: a rank that is dealt one batch less
    scores an example once more and drops its values.
    """
    model.eval()
    batches = examples.indices.split(examples.task.batch_size)
    rank, size = collectives.rank, collectives.size
    parts: dict[str, list[Tensor]] = {metric.name: [] for metric in metrics}
    for first in range(0, len(batches), size):
        dealt = first + rank < len(batches)
        indices = batches[first + rank] if dealt else batches[0][:1]
        with collectives.translate_collective_errors():
            scored = examples.task.evaluate(model, examples.batch(indices))
            for metric in metrics:
                if dealt:
                    parts[metric.name].append(scored[metric.name].detach().to(device="cpu", dtype=torch.float64))
    positions = torch.arange(len(examples)).split(examples.task.batch_size)
    dealt_to = [torch.cat([positions[0][:0], *positions[each::size]]) for each in range(size)]
    lengths = [len(dealt) for dealt in dealt_to]
    order = torch.cat(dealt_to)
    values: dict[str, Tensor] = {}
    for name, part in parts.items():
        gathered = collectives.all_gather(torch.cat([torch.empty(0, dtype=torch.float64), *part]), lengths)
        values[name] = torch.empty_like(gathered)
        values[name][order] = gathered
    return Evaluation(values=values)
