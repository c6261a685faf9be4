"""WiSE-FT: on the line from the base to the mean of the fine-tunes, or to the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.methods.base import FixedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.fixed import Best, last_k
from ladle_engine.options import option

STEP, FINER = 0.1, 0.05
"""Of the shares that are tried: first all, then those around the best."""
MEAN, BEST = "mean", "best"


@dataclass(frozen=True, kw_only=True)
class WiseFtOptions:
    share: float | None = option(
        None,
        "of the fine-tune, the rest being the base's; by default the select split chooses",
        at_least=0.0,
        at_most=1.0,
    )
    to: str = option(MEAN, "which fine-tune the line leads to: the mean of all, or the best one", one_of=(MEAN, BEST))


class WiseFt(FixedMethod):
    name: ClassVar[str] = "wise-ft"
    summary: ClassVar[str] = "Between the base and the mean, or the best, of the fine-tunes. Needs `base`."
    formula: ClassVar[tuple[str, ...]] = ("w = (1 - share) w_0 + share bar(w)",)
    reference: ClassVar[str] = "Wortsman et al. 2022, Robust fine-tuning of zero-shot models, eq. 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2109.01903"
    options_type: ClassVar[type] = WiseFtOptions
    combines_checkpoints: ClassVar[bool] = False

    def uses_base(self, options: WiseFtOptions) -> bool:
        return True

    def choose(self, context: MethodContext, options: WiseFtOptions) -> Choice:
        target = self._target(context, options.to)
        share = self._share(context, target) if options.share is None else options.share
        return Choice(
            coefficients=on_line(context, target, share), label=f"{self.name} (share {share:g} of the {options.to})"
        )

    def _target(self, context: MethodContext, to: str) -> Coefficients:
        if to == BEST:
            return context.choice_of(Best.name).coefficients
        return last_k(context, len(context.checkpoints.names))

    def _share(self, context: MethodContext, target: Coefficients) -> float:
        """Collective: of equals the larger one, so that the base counts only where it helps."""
        tried = [round(1 - STEP * index, 2) for index in range(round(1 / STEP) + 1)]
        for around in (True, False):
            best = tried[context.race([on_line(context, target, share) for share in tried], method=self.name)]
            if around:
                tried = [share for share in (best, best + FINER, best - FINER) if 0 <= share <= 1]
                tried = [round(share, 2) for share in tried]
        return best


def on_line(context: MethodContext, target: Coefficients, share: float) -> Coefficients:
    """`share` of the whole-model `target`, and the rest of the base."""
    base_G = torch.full((1,), 1 - share, dtype=torch.float64)
    return context.coefficients_with_base(base_G, share * target.alpha_KG, context.whole_model())
