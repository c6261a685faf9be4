"""Scores: statistics of every example, so that two models can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from ladle_engine.distributed.collectives import Collectives
from ladle_engine.tasks.base import Batch, Generates, GivesLogits, Metric, Task
from ladle_engine.tasks.examples import Examples
from ladle_engine.tasks.joined import Strata

TIE_DIGITS = 12
"""Decimals to which two scores are the same."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's statistics on N examples: those of a split, or the first N in the order in which it is evaluated."""

    metrics: tuple[Metric, ...]
    """The task's, also those whose statistics are not here."""
    values: Mapping[str, Tensor]
    """Name of a statistic -> float64 [N] or [N, S]."""
    strata: Strata | None = None
    """Which set each example is of; None for a single one. The score of several is the weighted mean of theirs."""

    def __len__(self) -> int:
        """N."""
        return len(next(iter(self.values.values())))

    @property
    def sets(self) -> list[tuple[float, Evaluation]]:
        """What is known of each set, with its weight."""
        if self.strata is None:
            return [(1.0, self)]
        return [
            (weight, Evaluation(metrics=self.metrics, values={name: rows[own] for name, rows in self.values.items()}))
            for weight, own in zip(self.strata.weights, self.strata.positions(), strict=True)
        ]

    def score(self, metric: Metric) -> float:
        return sum(weight * part._score(metric) for weight, part in self.sets)

    def _score(self, metric: Metric) -> float:
        """Of a single set."""
        if metric.of is None:
            return float(self.values[metric.name].mean())
        return float(self.sampled(metric, torch.ones(1, len(self), dtype=torch.float64))[0])

    def sampled(self, metric: Metric, weights: Tensor) -> Tensor:
        """Of a single set, a metric that is no mean: float64 [R], of R samples; `weights` says how often each has each
        example."""
        assert metric.of is not None
        assert self.strata is None
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
        """Larger is better: the metric, then, where that ties, the loss. Over several sets, equal shares of hits add up
        to the same number only to the last bits."""
        if not self.is_finite:
            return (float("-inf"), float("-inf"))
        sign = 1.0 if metric.higher_is_better else -1.0
        return (round(sign * self.score(metric), TIE_DIGITS), -self.loss)

    def first(self, count: int) -> Evaluation:
        """What is known of so many examples alone."""
        return Evaluation(
            metrics=self.metrics,
            values={name: values[:count] for name, values in self.values.items()},
            strata=None if self.strata is None else self.strata.first(count),
        )

    def and_then(self, more: Evaluation) -> Evaluation:
        """With the examples that follow."""
        together = None
        if self.strata is not None:
            assert more.strata is not None
            together = self.strata.and_then(more.strata)
        return Evaluation(
            metrics=self.metrics,
            values={name: torch.cat([values, more.values[name]]) for name, values in self.values.items()},
            strata=together,
        )

    def beside(self, other: Evaluation) -> Evaluation:
        """With other statistics, on the examples that both know."""
        own, others = (each.first(min(len(self), len(other))) for each in (self, other))
        return replace(own, values={**own.values, **others.values})


def per_example(metric: Metric, *, num_sets: int) -> str | None:
    """The statistic whose mean, of several sets the weighted mean of their means, stands for the metric where two
    models are compared on the same examples.

    A metric that rises with a mean on each set does not rise with the mean of those: then there is none.
    """
    return metric.per_example if num_sets == 1 or metric.of is None else None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model puts out for N examples, in their order."""

    logits_NC: Tensor
    """float16"""
    targets: Tensor
    """See `GivesLogits`."""

    def __len__(self) -> int:
        """N."""
        return len(self.logits_NC)

    def first(self, count: int) -> Outputs:
        return Outputs(logits_NC=self.logits_NC[:count], targets=self.targets[:count])

    def and_then(self, more: Outputs) -> Outputs:
        """With the examples that follow."""
        return Outputs(
            logits_NC=torch.cat([self.logits_NC, more.logits_NC]), targets=torch.cat([self.targets, more.targets])
        )


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
    names = statistics_of(examples.task.metrics, generated=generated)

    def rows(batch: Batch) -> dict[str, Tensor]:
        return _rows(_scored(examples.task, model, batch, generated), names)

    values = _of_all(model, examples, collectives, served_in, rows)
    return Evaluation(metrics=examples.task.metrics, values=values, strata=examples.strata)


@torch.no_grad()
def evaluate_and_keep(
    model: nn.Module, examples: Examples, collectives: Collectives, *, served_in: torch.dtype | None = None
) -> tuple[Evaluation, Outputs]:
    """Collective: the same, and what the model puts out. The task must be one that `gives_logits`."""
    task, names = cast(GivesLogits, examples.task), statistics_of(examples.task.metrics, generated=False)
    largest = torch.finfo(torch.float16).max

    def rows(batch: Batch) -> dict[str, Tensor]:
        logits, targets = task.logits(model, batch), task.targets(batch)
        kept = {_LOGITS: logits.clamp(-largest, largest).to("cpu", torch.float16), _TARGETS: targets.to("cpu")}
        return {**_rows(task.of_logits(logits, targets), names), **kept}

    values = _of_all(model, examples, collectives, served_in, rows)
    outputs = Outputs(logits_NC=values.pop(_LOGITS), targets=values.pop(_TARGETS))
    return Evaluation(metrics=examples.task.metrics, values=values, strata=examples.strata), outputs


@torch.no_grad()
def evaluate_outputs(examples: Examples, logits_NC: Tensor, targets: Tensor) -> Evaluation:
    """Of a model that puts these out for the N examples. The task must be one that `gives_logits`."""
    task, names = cast(GivesLogits, examples.task), statistics_of(examples.task.metrics, generated=False)
    values = _rows(task.of_logits(logits_NC, targets), names)
    return Evaluation(metrics=examples.task.metrics, values=values, strata=examples.strata)


_LOGITS, _TARGETS = "logits, kept", "targets, kept"
"""No statistic has such a name."""


def _rows(scored: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    return {name: scored[name].detach().to(device="cpu", dtype=torch.float64) for name in names}


def _of_all(
    model: nn.Module,
    examples: Examples,
    collectives: Collectives,
    served_in: torch.dtype | None,
    rows: Callable[[Batch], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Collective: what `rows` makes of each batch, for all examples in their order."""
    model.eval()
    batches = examples.batch_positions()
    rank, size = collectives.rank, collectives.size
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(batches), size):
        dealt = first + rank < len(batches)
        indices = examples.indices[batches[first + rank] if dealt else batches[0][:1]]
        with collectives.translate_collective_errors(), _served_in(served_in, examples.device):
            for name, found in rows(examples.batch(indices)).items():
                # A rank that is dealt nothing at all needs to know the shape of a row.
                parts.setdefault(name, []).append(found if dealt else found[:0])
    dealt_to = [torch.cat([batches[0][:0], *batches[each::size]]) for each in range(size)]
    lengths = [len(dealt) for dealt in dealt_to]
    order = torch.cat(dealt_to)
    values: dict[str, Tensor] = {}
    for name, part in parts.items():
        gathered = collectives.all_gather(torch.cat(part), lengths)
        values[name] = torch.empty_like(gathered)
        values[name][order] = gathered
    return values


def statistics_of(metrics: Sequence[Metric], *, generated: bool) -> tuple[str, ...]:
    """What all metrics of one kind need, each once."""
    return tuple(dict.fromkeys(name for metric in metrics if metric.generated is generated for name in metric.needs))


def _served_in(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[None]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _scored(task: Task, model: nn.Module, batch: Batch, generated: bool) -> Mapping[str, Tensor]:
    return cast(Generates, task).generate(model, batch) if generated else task.evaluate(model, batch)
