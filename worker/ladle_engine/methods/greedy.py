"""Greedy soup, in its published form."""

from __future__ import annotations

from typing import ClassVar

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.methods.base import Choice, NoOptions
from ladle_engine.progress import Pace
from ladle_engine.workspace import Workspace


class GreedySoup:
    """Checkpoints in order of their held-out score; each stays in the soup if the mean of the soup gets no worse."""

    name: ClassVar[str] = "greedy-soup"
    summary: ClassVar[str] = "Adds checkpoints, best first, to a mean for as long as the fit score gets no worse."
    reference: ClassVar[str] = "Wortsman et al. 2022, Model soups, recipe 1"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2203.05482"
    options_type: ClassVar[type] = NoOptions

    def choose(self, work: Workspace, options: NoOptions) -> Choice:
        scores = [single.fit.rank_key(work.metric) for single in work.singles()]
        K = len(scores)
        order = sorted(range(K), key=lambda i: scores[i], reverse=True)
        soup, best = [order[0]], scores[order[0]]
        pace = Pace(work.tell, "train", K - 1, method=self.name)
        for done, candidate in enumerate(order[1:]):
            score = work.fit_score(mean_of(work, [*soup, candidate]))
            # Only the metric counts, as published: a soup that ties takes the ingredient in.
            if score[0] >= best[0]:
                soup, best = [*soup, candidate], score
            pace.step(done + 1)
        return Choice(coefficients=mean_of(work, soup), label=f"greedy-soup ({len(soup)} of {K})")


def mean_of(work: Workspace, members: list[int]) -> Coefficients:
    """`1/n` on the n members."""
    alpha_K = torch.zeros(len(work.checkpoints.names), dtype=torch.float64)
    alpha_K[members] = 1.0 / len(members)
    return work.coefficients(alpha_K)
