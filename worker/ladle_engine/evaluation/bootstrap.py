"""The paired bootstrap (Koehn 2004): a metric of two models on the same samples of the examples, with replacement.

For metrics that are functions of all examples, where no standard error is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.tasks.base import Metric

SAMPLES = 10_000
FEWEST_SAMPLES = 1_000
MOST_DRAWS = 200_000_000
"""Examples drawn, in all samples together: a few seconds' work."""
CHUNK_DRAWS = 1 << 21
"""Drawn at a time, which bounds the memory."""
MOST_KEPT = 1 << 24
"""Draws that are kept for the next comparison: 32 MiB, for up to 1,677 examples."""


def paired_differences(one: Evaluation, other: Evaluation, metric: Metric, seed: int) -> Tensor:
    """float64 [R]: by how much the metric of `one` is larger, in each of R samples. R is 10,000, or less for more than
    20,000 examples.

    Of several sets each is sampled apart (stratified). Sets of one size are sampled alike, since they may be versions
    of the same examples.
    """
    assert len(one) == len(other)
    number = num_samples(len(one))
    parts = zip(one.sets, other.sets, strict=True)
    weighted = [weight * _differences(part, bar, metric, seed, number) for (weight, part), (_, bar) in parts]
    return torch.stack(weighted).sum(dim=0)


def _differences(one: Evaluation, other: Evaluation, metric: Metric, seed: int, number: int) -> Tensor:
    """On a single set."""
    parts = samples(len(one), number, seed)
    return torch.cat([one.sampled(metric, weights) - other.sampled(metric, weights) for weights in parts])


def resampled(evaluation: Evaluation, metric: Metric, seed: int, number: int = FEWEST_SAMPLES) -> Tensor:
    """float64 [R]: the metric in each of R samples of the examples, the same for all models on the same examples."""
    return resampled_together([evaluation], metric, seed, number)[:, 0]


def resampled_together(evaluations: Sequence[Evaluation], metric: Metric, seed: int, number: int) -> Tensor:
    """float64 [R, M]: the same of M models that are known on the same examples."""
    by_set = zip(*(each.sets for each in evaluations), strict=True)
    return torch.stack([_weighted(list(models), metric, seed, number) for models in by_set]).sum(dim=0)


def _weighted(models: Sequence[tuple[float, Evaluation]], metric: Metric, seed: int, number: int) -> Tensor:
    """On a single set, times its weight."""
    weight, first = models[0]
    drawn = samples(len(first), number, seed)
    rows = [torch.stack([_of_sample(part, metric, weights) for _, part in models], dim=1) for weights in drawn]
    return weight * torch.cat(rows)


def _of_sample(part: Evaluation, metric: Metric, weights: Tensor) -> Tensor:
    if metric.of is None:
        return weights @ part.values[metric.name] / len(part)
    return part.sampled(metric, weights)


def num_samples(count: int) -> int:
    return max(FEWEST_SAMPLES, min(SAMPLES, MOST_DRAWS // count))


def samples(count: int, number: int, seed: int) -> Iterator[Tensor]:
    """`number` samples of as many examples as there are, in parts: float64 [R, N], how often each sample has each.

    The draws are sacrebleu's: row by row of one array of numpy's generator, whatever the size of the parts.
    """
    parts = _kept(count, number, seed) if count * number <= MOST_KEPT else _drawn(count, number, seed)
    return (part.to(torch.float64) for part in parts)


@lru_cache(maxsize=1)
def _kept(count: int, number: int, seed: int) -> tuple[Tensor, ...]:
    """All candidates of a job are compared on the same samples, and drawing takes longer than comparing."""
    return tuple(part.to(torch.int16) for part in _drawn(count, number, seed))


def _drawn(count: int, number: int, seed: int) -> Iterator[Tensor]:
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_DRAWS // count)
    for start in range(0, number, rows):
        part = min(rows, number - start)
        drawn = torch.from_numpy(generator.choice(count, size=(part, count), replace=True))
        flat = (drawn + torch.arange(part)[:, None] * count).view(-1)
        yield torch.bincount(flat, minlength=part * count).view(part, count)


def percentiles(values: Tensor, confidence: float) -> tuple[float, float]:
    """The two that hold this share of the values between them."""
    edge = (1 - confidence) / 2
    low, high = torch.quantile(values, torch.tensor([edge, 1 - edge], dtype=values.dtype)).tolist()
    return low, high
