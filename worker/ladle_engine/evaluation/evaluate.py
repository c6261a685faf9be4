"""Scores: statistics of every example, so that two models can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.tasks.base import Batch, Generates, Metric, Task
from ladle_engine.tasks.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's statistics on N examples: those of a split, or the first N in the order in which it is evaluated."""

    metrics: tuple[Metric, ...]
    """The task's, also those whose statistics are not here."""
    values: Mapping[str, Tensor]
    """Name of a statistic -> float64 [N] or [N, S]."""

    def __len__(self) -> int:
        """N."""
        return len(next(iter(self.values.values())))

    def score(self, metric: Metric) -> float:
        if metric.of is None:
            return float(self.values[metric.name].mean())
        return float(self.sampled(metric, torch.ones(1, len(self), dtype=torch.float64))[0])

    def sampled(self, metric: Metric, weights: Tensor) -> Tensor:
        """A metric that is no mean, float64 [R], of R samples; `weights` says how often each has each example."""
        assert metric.of is not None
        return metric.of({name: self.values[name] for name in metric.needs}, weights)

    def scores(self) -> dict[str, float]:
        """Of all metrics whose statistics are here."""
        known = [metric for metric in self.metrics if all(name in self.values for name in metric.needs)]
        return {metric.name: self.score(metric) for metric in known}

    @property
    def loss(self) -> float:
        return self.score(next(metric for metric in self.metrics if metric.name == "loss"))

    @property
    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(values).all()) for values in self.values.values())

    def rank_key(self, metric: Metric) -> tuple[float, float]:
        """Larger is better: the metric, then, where that ties, the loss."""
        if not self.is_finite:
            return (float("-inf"), float("-inf"))
        sign = 1.0 if metric.higher_is_better else -1.0
        return (sign * self.score(metric), -self.loss)

    def first(self, count: int) -> Evaluation:
        """What is known of so many examples alone."""
        return Evaluation(metrics=self.metrics, values={name: values[:count] for name, values in self.values.items()})

    def and_then(self, more: Evaluation) -> Evaluation:
        """With the examples that follow."""
        return Evaluation(
            metrics=self.metrics,
            values={name: torch.cat([values, more.values[name]]) for name, values in self.values.items()},
        )

    def beside(self, other: Evaluation) -> Evaluation:
        """With other statistics, on the examples that both know."""
        count = min(len(self), len(other))
        return Evaluation(metrics=self.metrics, values={**self.first(count).values, **other.first(count).values})


@torch.no_grad()
def evaluate(
    model: nn.Module,
    examples: Examples,
    collectives: Collectives,
    *,
    generated: bool = False,
    served_in: torch.dtype | None = None,
) -> Evaluation:
    """Collective: batches are dealt to the ranks in turn, and every rank gets the statistics of all examples, in order.

    Those that generated metrics need, or those that the others do. What stands in a batch does not depend on the ranks,
    so a model has the same values on any number of them. Every rank calls the model equally often, because a call may
    itself be collective: a rank that is dealt one batch less scores an example once more and drops its values.

    With `served_in` the model's products are made in this type, as where it will be served; losses stay float32.
    """
    model.eval()
    task = examples.task
    batches = examples.indices.split(task.batch_size)
    rank, size = collectives.rank, collectives.size
    names = statistics_of(task.metrics, generated=generated)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for first in range(0, len(batches), size):
        dealt = first + rank < len(batches)
        indices = batches[first + rank] if dealt else batches[0][:1]
        with collectives.translate_collective_errors(), _served_in(served_in, examples.device):
            scored = _scored(task, model, examples.batch(indices), generated)
            for name in names:
                rows = scored[name].detach().to(device="cpu", dtype=torch.float64)
                # A rank that is dealt nothing at all needs to know the shape of a row.
                parts[name].append(rows if dealt else rows[:0])
    positions = torch.arange(len(examples)).split(task.batch_size)
    dealt_to = [torch.cat([positions[0][:0], *positions[each::size]]) for each in range(size)]
    lengths = [len(dealt) for dealt in dealt_to]
    order = torch.cat(dealt_to)
    values: dict[str, Tensor] = {}
    for name, part in parts.items():
        gathered = collectives.all_gather(torch.cat(part), lengths)
        values[name] = torch.empty_like(gathered)
        values[name][order] = gathered
    return Evaluation(metrics=task.metrics, values=values)


def statistics_of(metrics: Sequence[Metric], *, generated: bool) -> tuple[str, ...]:
    """What all metrics of one kind need, each once."""
    return tuple(dict.fromkeys(name for metric in metrics if metric.generated is generated for name in metric.needs))


def _served_in(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _scored(task: Task, model: nn.Module, batch: Batch, generated: bool) -> Mapping[str, Tensor]:
    return cast(Generates, task).generate(model, batch) if generated else task.evaluate(model, batch)
