"""Losses and statistics of examples, from functions that take whole batches of the user's own kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.given.data import Given, GivenSet
from ladle_engine.tasks.given.functions import Functions
from ladle_engine.tasks.given.nested import to_device
from ladle_engine.tasks.given.rows import size_of
from ladle_engine.tasks.given.trial import Kind
from ladle_engine.tasks.metrics import ratio

FEWEST_PARTS = 100
"""In which a mean loss of the data is evaluated, at least: they are what is compared pair by pair."""
SUM, COUNT = "_sum", "_count"
"""End the names of the statistics of several examples together; they stand at the first of these."""


class Scoring(Protocol):
    """What a task is asked for, of batches of the engine's."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]: ...


def scoring_of(functions: Functions, sets: Sequence[GivenSet], kind: Kind, metrics: Sequence[Metric]) -> Scoring:
    given = sets[0].given
    if given.is_whole_batches:
        sizes = [size_of(given.fetch([index])) for index in range(len(given))]
        return BatchScoring(functions=functions, sets=sets, mean_size=sum(sizes) / len(sizes))
    part = max(1, len(given) // FEWEST_PARTS) if kind is Kind.MEAN else given.batch_size
    means = frozenset(metric.name for metric in metrics if metric.of is None)
    return RowScoring(functions=functions, sets=sets, kind=kind, part=part, means=means)


def of_parts(metric: Metric) -> Metric:
    """The mean over examples of what is known of several examples together only."""
    names = (metric.name + SUM, metric.name + COUNT)
    return Metric(name=metric.name, higher_is_better=metric.higher_is_better, of=ratio(*names), statistics=names)


@dataclass(frozen=True, kw_only=True)
class RowScoring:
    """Of examples that batches are put together from."""

    functions: Functions
    sets: Sequence[GivenSet]
    kind: Kind
    part: int
    """So many examples are evaluated at once, where the loss is one number for all of them."""
    means: frozenset[str]
    """The metrics that are means over examples."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        given, indices, device = found(self.sets, batch)
        return self.functions.losses(model, to_device(given.fetch(indices), device)).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        given, indices, device = found(self.sets, batch)
        whole = to_device(given.fetch(indices), device)
        scores = self.functions.scores(model, whole)
        rows = {name: each.to(torch.float32) if name in self.means else each for name, each in scores.items()}
        if "loss" in rows:
            return rows
        if self.kind is Kind.PER_EXAMPLE:
            return rows | {"loss": self.functions.losses(model, whole)}
        return rows | self._by_parts(model, given, indices, device)

    def _by_parts(
        self, model: nn.Module, given: Given, indices: Sequence[int], device: torch.device
    ) -> dict[str, Tensor]:
        sums = torch.zeros(len(indices), dtype=torch.float64, device=device)
        counts = torch.zeros_like(sums)
        # While BatchNorm's statistics are made, they must be those of the whole batch.
        together = any(module.training for module in model.modules())
        step = len(indices) if together else self.part
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            losses = self.functions.losses(model, to_device(given.fetch(part), device))
            sums[start], counts[start] = losses.detach().double().mean() * len(part), len(part)
        return {"loss" + SUM: sums, "loss" + COUNT: counts}


@dataclass(frozen=True, kw_only=True)
class BatchScoring:
    """Of examples that are batches themselves; each counts as much as it has examples of the user's."""

    functions: Functions
    sets: Sequence[GivenSet]
    mean_size: float

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = []
        for each in self._batches(batch):
            values = self.functions.losses(model, each)
            losses.append(values.mean() * (_size(each, values) / self.mean_size))
        return torch.stack(losses).mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found = [self._sums_of(model, each) for each in self._batches(batch)]
        return {name: torch.stack([sums[name] for sums in found]) for name in found[0]}

    def _sums_of(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """float64 scalars."""
        rows: Mapping[str, Tensor] = self.functions.scores(model, batch)
        if "loss" not in rows:
            rows = {**rows, "loss": self.functions.losses(model, batch)}
        sums: dict[str, Tensor] = {}
        for name, values in rows.items():
            size = _size(batch, values)
            mean = values.detach().double().mean()
            sums |= {name + SUM: mean * size, name + COUNT: torch.full_like(mean, size)}
        return sums

    def _batches(self, batch: Batch) -> list[Any]:
        given, indices, device = found(self.sets, batch)
        return [to_device(given.fetch([index]), device) for index in indices]


def found(sets: Sequence[GivenSet], batch: Batch) -> tuple[Given, list[int], torch.device]:
    """Whose examples the engine's batch is of, which, and where the model is."""
    ((name, indices),) = batch.items()
    return next(each.given for each in sets if each.name == name), indices.tolist(), indices.device


def _size(batch: Any, values: Tensor) -> int:
    return len(values) if values.ndim else size_of(batch)
