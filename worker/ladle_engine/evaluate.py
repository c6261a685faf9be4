"""Scores: one value per example and metric, so that two models can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ladle_engine.collectives import Collectives, share_of
from ladle_engine.examples import Examples
from ladle_engine.tasks.base import Metric


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's value on every example of one split."""

    values: Mapping[str, Tensor]
    """Metric name -> float64 [N]."""

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


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples, metrics: tuple[Metric, ...], collectives: Collectives) -> Evaluation:
    """Collective: each rank scores its share of the examples, and all get the whole."""
    model.eval()
    lengths, share = share_of(len(examples), collectives)
    parts: dict[str, list[Tensor]] = {metric.name: [] for metric in metrics}
    for batch in examples.take(share).batches():
        scored = examples.task.evaluate(model, batch)
        for metric in metrics:
            parts[metric.name].append(scored[metric.name].detach().to(device="cpu", dtype=torch.float64))
    empty = torch.empty(0, dtype=torch.float64)
    return Evaluation(
        values={name: collectives.concatenate(torch.cat([empty, *values]), lengths) for name, values in parts.items()}
    )
