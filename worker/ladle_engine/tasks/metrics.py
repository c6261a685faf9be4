"""The usual functions for `Metric.of`: of sums over the examples, each counted as often as a sample has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ladle_engine.tasks.base import Metric, Weighted


def of_sums(function: Callable[[Mapping[str, Tensor]], Tensor]) -> Weighted:
    """A function of the statistics' sums, each float64 [R] or [R, S] -> float64 [R]."""

    def of(values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        return function({name: weights @ rows for name, rows in values.items()})

    return of


def ratio(numerator: str, denominator: str) -> Weighted:
    """One sum over another, such as the correct tokens over all tokens; 0 where there is nothing to divide by."""

    def of(sums: Mapping[str, Tensor]) -> Tensor:
        return divided(sums[numerator], sums[denominator])

    return of_sums(of)


def exp_ratio(numerator: str, denominator: str) -> Weighted:
    """e to the power of one sum over another: perplexity, from the losses of the tokens and their number."""

    def of(sums: Mapping[str, Tensor]) -> Tensor:
        return divided(sums[numerator], sums[denominator]).exp()

    return of_sums(of)


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where there is nothing to divide by."""
    return torch.where(denominator == 0, 0.0, numerator / torch.where(denominator == 0, 1.0, denominator))


def mean_entropy(logits: Tensor) -> Tensor:
    """The mean entropy of the predictions that logits [B, classes] stand for, in nats: a float32 scalar.

    It may be trained where there are no labels: see `TrainsUnlabelled`.
    """
    log_probabilities = logits.to(torch.float32).log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()


def loss_per(unit: str) -> Metric:
    """`loss` of a set, per token or word: the statistic `nll` over that of their number, which `unit` names."""
    return Metric(
        name="loss", higher_is_better=False, low=0.0, of=ratio("nll", unit), statistics=("nll", unit), rises_with="nll"
    )


def correct_share(name: str, unit: str) -> Metric:
    """How many tokens or words are right: the statistic `correct` over that of their number, which `unit` names."""
    return Metric(
        name=name, higher_is_better=True, low=0.0, of=ratio("correct", unit), statistics=("correct", unit),
        rises_with="correct",
    )  # fmt: skip


def perplexity_per(unit: str) -> Metric:
    """e to the power of `loss_per`."""
    return Metric(
        name="perplexity", higher_is_better=False, low=0.0, of=exp_ratio("nll", unit), statistics=("nll", unit),
        rises_with="nll",
    )  # fmt: skip
