"""Metrics of generated texts beside their references, with the statistics that they are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.metrics import of_sums, ratio
from ladle_engine.tasks.text.seq2seq.corpus_scores import bleu_of_sums, bleu_statistics, chrf_of_sums, chrf_statistics
from ladle_engine.tasks.text.seq2seq.text_scores import exact_matches, rouge_values, word_counts, word_errors

GENERATED_METRICS: tuple[Metric, ...] = (
    Metric(
        name="bleu",
        higher_is_better=True,
        of=of_sums(lambda sums: bleu_of_sums(sums["bleu_counts"])),
        statistics=("bleu_counts",),
        generated=True,
    ),
    Metric(
        name="chrf",
        higher_is_better=True,
        of=of_sums(lambda sums: chrf_of_sums(sums["chrf_counts"])),
        statistics=("chrf_counts",),
        generated=True,
    ),
    *(
        Metric(name=name, higher_is_better=True, low=0.0, high=1.0, generated=True)
        for name in ("rouge1", "rouge2", "rougel", "exact-match")
    ),
    Metric(
        name="wer",
        higher_is_better=False,
        of=ratio("word_errors", "words"),
        statistics=("word_errors", "words"),
        rises_with="word_errors",
        low=0.0,
        generated=True,
    ),
)


def generated_statistics(
    texts: Sequence[str], references: Sequence[str], *, bleu_tokenizer: str, lowercase: bool, stemmer: bool
) -> Mapping[str, Tensor]:
    """What `GENERATED_METRICS` need, on the CPU. Raises `TaskError` (missing-library)."""
    return {
        "bleu_counts": bleu_statistics(texts, references, tokenize=bleu_tokenizer, lowercase=lowercase),
        "chrf_counts": chrf_statistics(texts, references, lowercase=lowercase),
        **rouge_values(texts, references, stemmer=stemmer),
        "exact-match": exact_matches(texts, references),
        "word_errors": word_errors(texts, references),
        "words": word_counts(references),
    }
