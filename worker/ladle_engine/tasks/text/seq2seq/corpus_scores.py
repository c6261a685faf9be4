"""BLEU and chrF: sacrebleu's statistics of each example, and its scores of their sums for many samples at once.

Both scores are functions of sums over the corpus, so that they are exact whatever the ranks, batches and rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ladle_engine.tasks.libraries import require

BLEU_TOKENIZERS = ("13a", "intl", "char", "none", "zh")
"""Those of sacrebleu that need no further package and no download."""
BLEU_ORDER = 4
BLEU_SIZE = 2 + 2 * BLEU_ORDER
"""Length of the hypothesis, length of the reference, then per order: n-grams that match, and all of the hypothesis."""
CHRF_ORDER = 6
CHRF_SIZE = 3 * CHRF_ORDER
"""Per order: n-grams of the hypothesis, of the reference, and those in both."""
CHRF_BETA_SQUARED = 4.0


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str, lowercase: bool) -> Tensor:
    """float64 [N, BLEU_SIZE]"""
    return _extracted(_bleu(tokenize, lowercase), hypotheses, references, BLEU_SIZE)


def chrf_statistics(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool) -> Tensor:
    """float64 [N, CHRF_SIZE]"""
    return _extracted(_chrf(lowercase), hypotheses, references, CHRF_SIZE)


def bleu_of_sums(sums: Tensor) -> Tensor:
    """[R, BLEU_SIZE] -> [R], from 0 to 100: sacrebleu's BLEU with its default smoothing, `exp`."""
    hypothesis, reference = sums[:, 0], sums[:, 1]
    matches, totals = sums[:, 2 : 2 + BLEU_ORDER], sums[:, 2 + BLEU_ORDER :]
    # Orders without a match count as 1/2, 1/4, ... of one; orders without any n-gram end the score at 0.
    unmatched = (matches == 0) & (totals > 0)
    smoothed = torch.where(unmatched, 0.5 ** unmatched.cumsum(dim=1), matches)
    precisions = 100.0 * smoothed / totals.clamp(min=1.0)
    brevity = torch.where(hypothesis < reference, torch.exp(1.0 - reference / hypothesis.clamp(min=1e-300)), 1.0)
    score = brevity * torch.exp(precisions.log().mean(dim=1))
    return torch.where((matches > 0).any(dim=1) & (totals > 0).all(dim=1), score, 0.0)


def chrf_of_sums(sums: Tensor) -> Tensor:
    """[R, CHRF_SIZE] -> [R], from 0 to 100: sacrebleu's chrF2 with its defaults."""
    hypothesis, reference, matches = sums.reshape(-1, CHRF_ORDER, 3).unbind(dim=2)
    counts = (hypothesis > 0) & (reference > 0)
    orders = counts.sum(dim=1).clamp(min=1)
    precision = torch.where(counts, matches / hypothesis.clamp(min=1.0), 0.0).sum(dim=1) / orders
    recall = torch.where(counts, matches / reference.clamp(min=1.0), 0.0).sum(dim=1) / orders
    score = 100.0 * (1 + CHRF_BETA_SQUARED) * precision * recall / (CHRF_BETA_SQUARED * precision + recall)
    return torch.where(precision + recall > 0, score, 0.0)


def _extracted(metric: Any, hypotheses: Sequence[str], references: Sequence[str], size: int) -> Tensor:
    """By the method that sacrebleu's own bootstrap takes them from."""
    if not hypotheses:
        return torch.empty(0, size, dtype=torch.float64)
    rows = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
    return torch.tensor(rows, dtype=torch.float64)


@cache
def _bleu(tokenize: str, lowercase: bool) -> Any:
    # Not `force`, sacrebleu would warn of text that looks tokenized, which is the user's business.
    return require("sacrebleu", "text").BLEU(tokenize=tokenize, lowercase=lowercase, force=True)


@cache
def _chrf(lowercase: bool) -> Any:
    return require("sacrebleu", "text").CHRF(lowercase=lowercase)
