"""Scores that are a value per example, or errors and words: ROUGE, exact match, word error rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle_engine.tasks.libraries import require

ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougel": "rougeL"}
"""Name of the metric -> name in rouge-score."""


def rouge_values(hypotheses: Sequence[str], references: Sequence[str], *, stemmer: bool) -> Mapping[str, Tensor]:
    """Metric -> float32 [N], the F1 of each example from 0 to 1, by rouge-score."""
    scorer = _rouge(stemmer)
    scores = [scorer.score(reference, text) for text, reference in zip(hypotheses, references, strict=True)]
    return {
        name: torch.tensor([score[its_name].fmeasure for score in scores], dtype=torch.float32)
        for name, its_name in ROUGE.items()
    }


def exact_matches(hypotheses: Sequence[str], references: Sequence[str]) -> Tensor:
    """float32 [N]: 1 where both texts are the same but for white space at their ends, else 0."""
    same = [text.strip() == reference.strip() for text, reference in zip(hypotheses, references, strict=True)]
    return torch.tensor(same, dtype=torch.float32)


def word_errors(hypotheses: Sequence[str], references: Sequence[str]) -> Tensor:
    """float64 [N]: words to change, insert or remove, the words being what stands between white space."""
    pairs = zip(hypotheses, references, strict=True)
    return torch.tensor(
        [edit_distance(text.split(), reference.split()) for text, reference in pairs], dtype=torch.float64
    )


def word_counts(references: Sequence[str]) -> Tensor:
    """float64 [N]"""
    return torch.tensor([len(reference.split()) for reference in references], dtype=torch.float64)


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein's, row by row: memory is that of one."""
    numbers = {word: number for number, word in enumerate({*one, *other})}
    columns = np.array([numbers[word] for word in other], dtype=np.int64)
    places = np.arange(len(other) + 1)
    row = places
    for count, word in enumerate(one, start=1):
        changed = row[:-1] + (columns != numbers[word])
        row = np.concatenate(([count], np.minimum(changed, row[1:] + 1)))
        # A word more in `other` costs one beyond the best place before it.
        row = np.minimum.accumulate(row - places) + places
    return int(row[-1])


@cache
def _rouge(stemmer: bool) -> Any:
    return require("rouge_score.rouge_scorer", "text").RougeScorer(list(ROUGE.values()), use_stemmer=stemmer)
