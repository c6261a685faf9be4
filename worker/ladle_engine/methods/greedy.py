"""Greedy soup, in its published form."""

from __future__ import annotations

from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.methods.base import FixedMethod, NoOptions
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.progress import Pace


class GreedySoup(FixedMethod):
    """Checkpoints in order of their held-out score; each stays in the soup if the mean of the soup gets no worse."""

    name: ClassVar[str] = "greedy-soup"
    summary: ClassVar[str] = (
        "Adds checkpoints to a mean, best first, as long as the score on the fit split does not get worse."
    )
    formula: ClassVar[tuple[str, ...]] = ("alpha_i = 1/n for the n checkpoints of the soup, else 0",)
    reference: ClassVar[str] = "Wortsman et al. 2022, Model soups, recipe 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2203.05482"
    options_type: ClassVar[type] = NoOptions

    def choose(self, context: MethodContext, options: NoOptions) -> Choice:
        K = len(context.checkpoints.names)
        singles = self._singles(context, K)
        order = sorted(range(K), key=lambda i: singles[i].rank_key(context.metric), reverse=True)
        soup, bar = [order[0]], singles[order[0]]
        pace = Pace(context.on_event, "train", K - 1, method=self.name, unit="examples")
        before = context.evaluations.num_judged
        for done, candidate in enumerate(order[1:]):
            larger = [*soup, candidate]
            evaluation = context.evaluations.unless_below(mean_of(context, larger), "fit", bar, context.metric)
            # Only the metric counts, as published: a soup that ties takes the ingredient in.
            if evaluation is not None and evaluation.rank_key(context.metric)[0] >= bar.rank_key(context.metric)[0]:
                soup, bar = larger, evaluation
            pace.step(done + 1, amount=context.evaluations.num_judged - before)
        return Choice(coefficients=mean_of(context, soup), label=f"greedy-soup ({len(soup)} of {K})")

    def _singles(self, context: MethodContext, K: int) -> list[Evaluation]:
        """The order needs all of them, on the whole fit split."""
        pace = Pace(context.on_event, "evaluate", K, method=self.name, unit="examples")
        before = context.evaluations.num_judged
        singles: list[Evaluation] = []
        for index in range(K):
            singles.append(context.evaluations.whole(context.one_checkpoint(index), "fit", context.metric))
            pace.step(index + 1, amount=context.evaluations.num_judged - before)
        return singles


def mean_of(context: MethodContext, members: list[int]) -> Coefficients:
    """`1/n` on the n members."""
    alpha_K = torch.zeros(len(context.checkpoints.names), dtype=torch.float64)
    alpha_K[members] = 1.0 / len(members)
    return context.coefficients(alpha_K)
