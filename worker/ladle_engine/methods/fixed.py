"""Methods whose coefficients are rows of fixed numbers: best, second-best, uniform, last-k, ema.

Which row (which checkpoint, k or decay) is picked by a race on the select split: nothing is trained there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.methods.base import FixedMethod, NoOptions
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.model.binding import Binding
from ladle_engine.options import option

ALL_K = 32
"""Up to this many values of k, every one is tried."""
GRID = 16
SHORTEST_MEMORY = 1.25
"""Checkpoints: an average with less of them is as good as the last one."""


class Best(FixedMethod):
    """The bar that the others must clear, set as high as the select split makes it."""

    name: ClassVar[str] = "best"
    summary: ClassVar[str] = "The best single checkpoint on the select split: what every average has to beat."
    formula: ClassVar[tuple[str, ...]] = ("alpha_i = 1 for the best i, else 0",)
    reference: ClassVar[str] = "Li et al. 2023, tables 5-7"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2205.13104"
    options_type: ClassVar[type] = NoOptions
    mixes: ClassVar[bool] = False

    def choose(self, context: MethodContext, options: NoOptions) -> Choice:
        index = best_of(context, range(len(context.checkpoints.names)), self.name)
        return Choice(
            coefficients=context.one_checkpoint(index), label=f"{self.name} ({context.checkpoints.names[index]})"
        )


class SecondBest(FixedMethod):
    """How far the best checkpoint stands out."""

    name: ClassVar[str] = "second-best"
    summary: ClassVar[str] = "The second best single checkpoint on the select split. `auto` does not run it."
    formula: ClassVar[tuple[str, ...]] = ("alpha_i = 1 for the second best i, else 0",)
    reference: ClassVar[str] = "Li et al. 2023, tables 5-8"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2205.13104"
    options_type: ClassVar[type] = NoOptions
    mixes: ClassVar[bool] = False

    def choose(self, context: MethodContext, options: NoOptions) -> Choice:
        K = len(context.checkpoints.names)
        if K < 2:
            raise MethodError(
                "too-few-checkpoints", f"Method `{self.name}` must have at least 2 checkpoints, but there is only {K}."
            )
        best = best_of(context, range(K), self.name)
        index = best_of(context, [i for i in range(K) if i != best], self.name)
        return Choice(
            coefficients=context.one_checkpoint(index), label=f"{self.name} ({context.checkpoints.names[index]})"
        )


class Uniform(FixedMethod):
    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "The arithmetic mean of all checkpoints (SWA)."
    formula: ClassVar[tuple[str, ...]] = ("alpha_i = 1/K",)
    reference: ClassVar[str] = "Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, eq. 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/1803.05407"
    options_type: ClassVar[type] = NoOptions

    def choose(self, context: MethodContext, options: NoOptions) -> Choice:
        K = len(context.checkpoints.names)
        return Choice(coefficients=last_k(context, K), label=f"uniform ({K})")


@dataclass(frozen=True, kw_only=True)
class LastKOptions:
    k: int | None = option(None, "how many of the last checkpoints; by default the select split chooses", at_least=1)


class LastK(FixedMethod):
    name: ClassVar[str] = "last-k"
    summary: ClassVar[str] = "The mean of the last k checkpoints by step (LAWA)."
    formula: ClassVar[tuple[str, ...]] = ("alpha_i = 1/k for i > K - k, else 0",)
    reference: ClassVar[str] = "Kaddour 2022, Stop Wasting My Time!, section 2"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2209.14981"
    options_type: ClassVar[type] = LastKOptions

    def goes_by_order(self, options: LastKOptions) -> bool:
        return True

    def check(self, options: LastKOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        K = len(checkpoint_names)
        if options.k is not None and options.k > K:
            raise MethodError(
                "invalid-method-options",
                f"`k` of method `last-k` must be at most the number of checkpoints ({K}), but is {options.k}.",
            )

    def choose(self, context: MethodContext, options: LastKOptions) -> Choice:
        K = len(context.checkpoints.names)
        k = options.k or self._choose_k(context, K)
        return Choice(coefficients=last_k(context, k), label=f"last-k (k = {k})")

    def _choose_k(self, context: MethodContext, K: int) -> int:
        """The best of all k or, where they are many, of a geometric grid that is refined around its best."""
        tried = evenly(min(2, K), K) if K <= ALL_K else geometric(2, K)
        while True:
            best = context.race([last_k(context, k) for k in tried], method=self.name)
            around = evenly(tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)])
            if set(around) <= set(tried):
                return tried[best]
            tried = around


@dataclass(frozen=True, kw_only=True)
class EmaOptions:
    decay: float | None = option(
        None,
        "weight of the past at each checkpoint; by default the select split chooses",
        above=0.0,
        at_most=0.9999,
    )


class Ema(FixedMethod):
    name: ClassVar[str] = "ema"
    summary: ClassVar[str] = "An exponential moving average over the checkpoints, in order of step."
    formula: ClassVar[tuple[str, ...]] = (
        "m_1 = w_1",
        "m_i = decay m_(i-1) + (1 - decay) w_i",
        "alpha_i = (1 - decay) decay^(K-i) for i > 1",
    )
    reference: ClassVar[str] = "Polyak and Juditsky 1992; as in torch.optim.swa_utils, over checkpoints"
    reference_url: ClassVar[str] = "https://epubs.siam.org/doi/10.1137/0330046"
    options_type: ClassVar[type] = EmaOptions

    def goes_by_order(self, options: EmaOptions) -> bool:
        return True

    def choose(self, context: MethodContext, options: EmaOptions) -> Choice:
        decay = options.decay or self._choose_decay(context)
        return Choice(coefficients=ema(context, decay), label=f"ema (decay = {decay:g})")

    def _choose_decay(self, context: MethodContext) -> float:
        tried = decays(len(context.checkpoints.names))
        return tried[context.race([ema(context, decay) for decay in tried], method=self.name)]


def best_of(context: MethodContext, indices: Sequence[int], method: str) -> int:
    """Collective: the best of these checkpoints on the select split."""
    singles = [context.one_checkpoint(i) for i in indices]
    return indices[context.race(singles, stage="evaluate", method=method, kin=False)]


def evenly(first: int, last: int) -> list[int]:
    """All whole numbers from `first` to `last` or, where they are more than `ALL_K`, that many evenly spaced ones."""
    count = min(last - first + 1, ALL_K)
    return sorted({first + round((last - first) * i / max(count - 1, 1)) for i in range(count)})


def geometric(first: int, last: int) -> list[int]:
    """`GRID` whole numbers from `first` to `last`, each about the same factor above the one before."""
    return sorted({round(first * (last / first) ** (i / (GRID - 1))) for i in range(GRID)})


def decays(K: int) -> list[float]:
    """Decays whose memory, `1 / (1 - decay)` checkpoints, grows by factors of `sqrt(2)` from 1.25 to K.

    A longer one than there are checkpoints would give the first of them most of the weight.
    """
    # A little more, because K itself is among them where it is 5, 10 or 20.
    longer = math.floor(2 * math.log2(K / SHORTEST_MEMORY) + 1e-9)
    return [round(1 - 2 ** (-step / 2) / SHORTEST_MEMORY, 4) for step in range(1 + max(0, longer))]


def last_k(context: MethodContext, k: int) -> Coefficients:
    """`1/k` on the last k of K."""
    alpha_K = torch.zeros(len(context.checkpoints.names), dtype=torch.float64)
    alpha_K[-k:] = 1.0 / k
    return context.coefficients(alpha_K)


def ema(context: MethodContext, decay: float) -> Coefficients:
    """The unrolled recursion `m_i = decay * m_(i-1) + (1 - decay) * w_i`, begun at `m_1 = w_1`."""
    K = len(context.checkpoints.names)
    ages_K = torch.arange(K - 1, -1, -1, dtype=torch.float64)
    alpha_K = (1 - decay) * decay**ages_K
    alpha_K[0] = decay ** (K - 1)
    return context.coefficients(alpha_K)
