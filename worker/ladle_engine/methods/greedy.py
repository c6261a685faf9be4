"""Greedy soup, in its published form."""

from __future__ import annotations

from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.methods.base import NoOptions
from ladle_engine.methods.context import Choice, Workspace
from ladle_engine.progress import Pace


class GreedySoup:
    """Checkpoints in order of their held-out score; each stays in the soup if the mean of the soup gets no worse."""

    name: ClassVar[str] = "greedy-soup"
    summary: ClassVar[str] = "Adds checkpoints, best first, to a mean for as long as the fit score gets no worse."
    reference: ClassVar[str] = "Wortsman et al. 2022, Model soups, recipe 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2203.05482"
    options_type: ClassVar[type] = NoOptions

    def choose(self, work: Workspace, options: NoOptions) -> Choice:
        K = len(work.checkpoints.names)
        singles = self._singles(work, K)
        order = sorted(range(K), key=lambda i: singles[i].rank_key(work.metric), reverse=True)
        soup, bar = [order[0]], singles[order[0]]
        pace = Pace(work.tell, "train", K - 1, method=self.name)
        for done, candidate in enumerate(order[1:]):
            larger = [*soup, candidate]
            evaluation = work.evaluations.unless_below(mean_of(work, larger), "fit", bar, work.metric)
            # Only the metric counts, as published: a soup that ties takes the ingredient in.
            if evaluation is not None and evaluation.rank_key(work.metric)[0] >= bar.rank_key(work.metric)[0]:
                soup, bar = larger, evaluation
            pace.step(done + 1)
        return Choice(coefficients=mean_of(work, soup), label=f"greedy-soup ({len(soup)} of {K})")

    def _singles(self, work: Workspace, K: int) -> list[Evaluation]:
        """The order needs all of them, on the whole fit split."""
        pace = Pace(work.tell, "evaluate", K, method=self.name)
        singles: list[Evaluation] = []
        for index in range(K):
            singles.append(work.evaluations.whole(work.one_checkpoint(index), "fit"))
            pace.step(index + 1)
        return singles


def mean_of(work: Workspace, members: list[int]) -> Coefficients:
    """`1/n` on the n members."""
    alpha_K = torch.zeros(len(work.checkpoints.names), dtype=torch.float64)
    alpha_K[members] = 1.0 / len(members)
    return work.coefficients(alpha_K)
