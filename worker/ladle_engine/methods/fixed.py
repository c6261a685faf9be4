"""Methods whose coefficients are rows of fixed numbers: best, uniform, last-k, ema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.methods.base import Choice, NoOptions
from ladle_engine.options import option
from ladle_engine.progress import Pace
from ladle_engine.workspace import Workspace


class Best:
    """Alone in looking at the select split: it is the bar that the others must clear, set as high as it goes."""

    name: ClassVar[str] = "best"
    summary: ClassVar[str] = "The best single checkpoint on the select split: what every average has to beat."
    reference: ClassVar[str] = "Li et al. 2023, tables 5-7"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2205.13104"
    options_type: ClassVar[type] = NoOptions

    def choose(self, work: Workspace, options: NoOptions) -> Choice:
        singles = work.singles()
        index = max(range(len(singles)), key=lambda i: singles[i].select.rank_key(work.metric))
        return Choice(coefficients=work.one_checkpoint(index), label=f"best ({work.checkpoints.names[index]})")


class Uniform:
    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "The arithmetic mean of all checkpoints (SWA)."
    reference: ClassVar[str] = "Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, eq. 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/1803.05407"
    options_type: ClassVar[type] = NoOptions

    def choose(self, work: Workspace, options: NoOptions) -> Choice:
        K = len(work.checkpoints.names)
        return Choice(coefficients=last_k(work, K), label=f"uniform ({K})")


@dataclass(frozen=True, kw_only=True)
class LastKOptions:
    k: int | None = option(None, "how many of the last checkpoints; chosen on the fit split when absent", at_least=1)


class LastK:
    name: ClassVar[str] = "last-k"
    summary: ClassVar[str] = "The mean of the last k checkpoints by step (LAWA)."
    reference: ClassVar[str] = "Kaddour 2022, Stop Wasting My Time!, section 2"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2209.14981"
    options_type: ClassVar[type] = LastKOptions

    def choose(self, work: Workspace, options: LastKOptions) -> Choice:
        K = len(work.checkpoints.names)
        if options.k is not None and options.k > K:
            raise MethodError(
                "invalid-method-options",
                f"`k` of method `last-k` must be at most the number of checkpoints ({K}), but is {options.k}.",
            )
        k = options.k or self._choose_k(work, K)
        return Choice(coefficients=last_k(work, k), label=f"last-k (k = {k})")

    def _choose_k(self, work: Workspace, K: int) -> int:
        candidates = sorted({k for k in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128) if k < K} or {K})
        pace = Pace(work.tell, "train", len(candidates), method=self.name)
        scores = {}
        for done, k in enumerate(candidates):
            scores[k] = work.fit_score(last_k(work, k))
            pace.step(done + 1)
        return max(candidates, key=lambda k: scores[k])


@dataclass(frozen=True, kw_only=True)
class EmaOptions:
    decay: float | None = option(
        None, "weight of the past at each checkpoint; chosen on the fit split when absent", above=0.0, at_most=0.9999
    )


class Ema:
    name: ClassVar[str] = "ema"
    summary: ClassVar[str] = "An exponential moving average over the checkpoints, in order of step."
    reference: ClassVar[str] = "Polyak and Juditsky 1992; as in torch.optim.swa_utils, over checkpoints"
    reference_url: ClassVar[str] = "https://epubs.siam.org/doi/10.1137/0330046"
    options_type: ClassVar[type] = EmaOptions

    DECAYS: ClassVar[tuple[float, ...]] = (0.5, 0.7, 0.8, 0.9, 0.95)

    def choose(self, work: Workspace, options: EmaOptions) -> Choice:
        decay = options.decay or self._choose_decay(work)
        return Choice(coefficients=ema(work, decay), label=f"ema (decay = {decay:g})")

    def _choose_decay(self, work: Workspace) -> float:
        pace = Pace(work.tell, "train", len(self.DECAYS), method=self.name)
        scores = {}
        for done, decay in enumerate(self.DECAYS):
            scores[decay] = work.fit_score(ema(work, decay))
            pace.step(done + 1)
        return max(self.DECAYS, key=lambda decay: scores[decay])


def last_k(work: Workspace, k: int) -> Coefficients:
    """`1/k` on the last k of K."""
    alpha_K = torch.zeros(len(work.checkpoints.names), dtype=torch.float64)
    alpha_K[-k:] = 1.0 / k
    return work.coefficients(alpha_K)


def ema(work: Workspace, decay: float) -> Coefficients:
    """The unrolled recursion `m_i = decay * m_(i-1) + (1 - decay) * w_i`, begun at `m_1 = w_1`."""
    K = len(work.checkpoints.names)
    ages_K = torch.arange(K - 1, -1, -1, dtype=torch.float64)
    alpha_K = (1 - decay) * decay**ages_K
    alpha_K[0] = decay ** (K - 1)
    return work.coefficients(alpha_K)
