"""Past a checkpoint, away from the mean of all or from the base: a line search beyond what training reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ladle_engine.coefficients import Coefficients
from ladle_engine.methods.base import FixedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.fixed import Best
from ladle_engine.options import option

LAST, BEST, MEAN, BASE = "last", "best", "mean", "base"
TRIED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of the way that are tried first; then the middles to either side of the best."""


@dataclass(frozen=True, kw_only=True)
class ExtrapolateOptions:
    share: float | None = option(
        None,
        "how far to go on, as a share of the way so far; by default the select split chooses, from 0 to 1",
        at_least=0.0,
        at_most=10.0,
    )
    beyond: str = option(LAST, "the checkpoint that is left behind: the last or the best one", one_of=(LAST, BEST))
    away_from: str = option(
        MEAN, "where the way comes from: the mean of all checkpoints, or the base", one_of=(MEAN, BASE)
    )


class Extrapolate(FixedMethod):
    name: ClassVar[str] = "extrapolate"
    summary: ClassVar[str] = "Past the last checkpoint, or the best, away from the mean of all or from the base."
    formula: ClassVar[tuple[str, ...]] = ("w = w_K + share (w_K - bar(w))",)
    reference: ClassVar[str] = "Zheng et al. 2024, Model extrapolation expedites alignment (ExPO)"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2404.16792"
    options_type: ClassVar[type] = ExtrapolateOptions
    combines_checkpoints: ClassVar[bool] = False

    def uses_base(self, options: ExtrapolateOptions) -> bool:
        return options.away_from == BASE

    def goes_by_order(self, options: ExtrapolateOptions) -> bool:
        return options.beyond == LAST

    def choose(self, context: MethodContext, options: ExtrapolateOptions) -> Choice:
        end_K = self._end(context, options.beyond)
        share = self._share(context, end_K, options.away_from) if options.share is None else options.share
        told = f"{share:g} past the {options.beyond}, away from the {options.away_from}"
        return Choice(coefficients=beyond(context, end_K, options.away_from, share), label=f"{self.name} ({told})")

    def _end(self, context: MethodContext, which: str) -> Tensor:
        """float64 [K]: 1 on the checkpoint that is left behind."""
        if which == BEST:
            return context.choice_of(Best.name).coefficients.alpha_KG[:, 0]
        return context.one_checkpoint(len(context.checkpoints.names) - 1).alpha_KG[:, 0]

    def _share(self, context: MethodContext, end_K: Tensor, away_from: str) -> float:
        """Collective: of equals the smaller one."""

        def best(tried: Sequence[float]) -> int:
            contenders = [beyond(context, end_K, away_from, share) for share in tried]
            return context.race(contenders, method=self.name)

        first = best(TRIED)
        around = TRIED[max(first - 1, 0) : first + 2]
        finer = [TRIED[first], *((one + other) / 2 for one, other in pairwise(around))]
        return finer[best(finer)]


def beyond(context: MethodContext, end_K: Tensor, away_from: str, share: float) -> Coefficients:
    """`w_end + share (w_end - w_from)`."""
    if away_from == BASE:
        base_G = torch.tensor([-share], dtype=torch.float64)
        return context.coefficients_with_base(base_G, (1 + share) * end_K[:, None], context.whole_model())
    return context.coefficients((1 + share) * end_K - share / len(end_K))
