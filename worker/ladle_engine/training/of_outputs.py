"""Coefficients of what the checkpoints put out: convex, and without any model.

`argmin over alpha of sum_n weight_n L_n(sum_i alpha_i z_in) + |alpha - 1/K|^2 / (2 N prior^2)`, `sum_i alpha_i = 1`.

Where averages of weights put out nearly what the average of the outputs is (one basin), this is nearly the minimum over
the averages of weights. K checkpoints, N examples, C numbers for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Losses = Callable[[Tensor], Tensor]
"""float64 [N, C] -> float64 [N], differentiable and convex."""

MOST_STEPS = 500
ENOUGH = 1e-9
"""The largest element of the gradient at which it ends."""


def best_of_outputs(logits_KNC: Tensor, losses: Losses, weights_N: Tensor, prior: float) -> Tensor:
    """float64 [K]: the minimum, by L-BFGS in float64 from `1/K`. The same in every process.

    `prior` is the standard deviation of coefficients around `1/K`; infinite for none.
    """
    K, N, _ = logits_KNC.shape
    # Around the mean, moves of all coefficients by one number do nothing, and no gradient leads there.
    centred_KNC = logits_KNC - logits_KNC.mean(dim=0)
    mean_NC = logits_KNC.mean(dim=0)
    u_K = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [u_K],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        tolerance_grad=ENOUGH,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = losses(mean_NC + torch.einsum("k,knc->nc", u_K, centred_KNC)) @ weights_N
        moved_K = u_K - u_K.mean()
        objective = loss + moved_K.square().sum() / (2 * N * prior**2)
        objective.backward()
        return objective

    optimiser.step(closure)
    return 1 / K + (u_K - u_K.mean()).detach()
