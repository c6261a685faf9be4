"""Greedy soup, in its published form."""

from __future__ import annotations

from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.racing import challenge
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
        order = self._best_first(context, K)
        soup, bar = [order[0]], context.evaluations.whole(context.one_checkpoint(order[0]), "fit", context.metric)
        pace = Pace(context.on_event, "train", K - 1, method=self.name, unit="examples")
        before = context.evaluations.num_judged
        for done, candidate in enumerate(order[1:]):
            larger = [*soup, candidate]
            evaluation = challenge(context.evaluations, mean_of(context, larger), "fit", bar, context.metric)
            # Only the metric counts, as published: a soup that ties takes the ingredient in.
            if evaluation is not None and evaluation.rank_key(context.metric)[0] >= bar.rank_key(context.metric)[0]:
                soup, bar = larger, evaluation
            pace.step(done + 1, amount=context.evaluations.num_judged - before)
        return Choice(coefficients=mean_of(context, soup), label=f"greedy-soup ({len(soup)} of {K})")

    def _best_first(self, context: MethodContext, K: int) -> list[int]:
        """By what choosing the best checkpoint has found: that one, then the others by what is known of them."""
        singles = [context.one_checkpoint(index) for index in range(K)]
        best = context.choice_of("best").coefficients.single()
        first = context.evaluations.rounds["select"][0]
        known = [context.evaluations.first(single, "select", first, context.metric) for single in singles]
        # Who got further in that race stands before whom it gave up.
        keys = [(i == best, len(known[i]), known[i].rank_key(context.metric)) for i in range(K)]
        return sorted(range(K), key=lambda i: keys[i], reverse=True)


def mean_of(context: MethodContext, members: list[int]) -> Coefficients:
    """`1/n` on the n members."""
    alpha_K = torch.zeros(len(context.checkpoints.names), dtype=torch.float64)
    alpha_K[members] = 1.0 / len(members)
    return context.coefficients(alpha_K)
