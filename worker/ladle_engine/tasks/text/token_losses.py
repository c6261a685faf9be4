"""The loss of each predicted token, in float32 and with bounded memory: a vocabulary may have 150,000 words."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""A target that stands for no prediction, as in transformers."""
CHUNK_NUMBERS = 1 << 25
"""Logits that are in memory at once: 128 MiB in float32, and some times as much while their gradient is made."""


def token_losses(
    rows: Tensor, targets: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods, float32 [N], and which predictions are right, bool [N].

    `logits_of` makes logits [n, vocabulary] of some of `rows` [N, ...]; it is called again when gradients are made,
    where all logits would be too many to keep. No target may be `IGNORED`.
    """
    most = max(CHUNK_NUMBERS // vocabulary, 1)

    def losses(some: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(some).to(torch.float32)
        return F.cross_entropy(logits, wanted, reduction="none"), logits.detach().argmax(dim=-1) == wanted

    if len(targets) <= most:
        return losses(rows, targets)
    parts = list(zip(rows.split(most), targets.split(most), strict=True))
    if torch.is_grad_enabled():
        made = [checkpoint(losses, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    else:
        made = [losses(*part) for part in parts]
    return torch.cat([nll for nll, _ in made]), torch.cat([correct for _, correct in made])
