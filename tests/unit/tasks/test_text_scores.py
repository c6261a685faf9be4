"""Scores of texts: the same numbers as sacrebleu's and rouge-score's own, also of samples of the examples."""

from __future__ import annotations

import random
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from ladle_engine.errors import TaskError
from ladle_engine.evaluation.bootstrap import paired_differences, samples
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.text.seq2seq import corpus_scores
from ladle_engine.tasks.text.seq2seq.corpus_scores import (
    BLEU_TOKENIZERS,
    bleu_of_sums,
    bleu_statistics,
    chrf_of_sums,
    chrf_statistics,
)
from ladle_engine.tasks.text.seq2seq.generated_metrics import GENERATED_METRICS, generated_statistics
from ladle_engine.tasks.text.seq2seq.text_scores import (
    edit_distance,
    exact_matches,
    rouge_values,
    word_counts,
    word_errors,
)

sacrebleu = pytest.importorskip("sacrebleu")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

PLAIN = ["the", "a", "cat", "Dog,", "sat", "on", "mat.", "It's", "3.5%", "(", "no", ")", "!", "U.S.", "don't"]
WORDS = [*PLAIN, "über", "你好", "Zürich-bar", "«oui»", "今日は", "\u00a0", "e\u0301"]
SACREBLEU_SEED = 12345
"""The one that its bootstrap has by default."""


def corpus(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts and references: some equal, some empty, some short, most with a few words in common."""
    chance = random.Random(seed)

    def sentence() -> str:
        return " ".join(chance.choice(WORDS) for _ in range(chance.randint(0, 12)))

    references = [sentence() for _ in range(count)]
    texts = [reference if chance.random() < 0.2 else sentence() for reference in references]
    return texts, references


CORPORA = [corpus(count, seed) for seed, count in enumerate([1, 1, 1, 2, 2, 3, 5, 8, 40, 200])]
CORPORA += [([""], ["a b c d"]), (["a"], ["a"]), (["x y z"], ["a b c"]), (["a b c"], ["a b c"]), ([" "], [" "])]


def total(rows: Tensor) -> Tensor:
    return rows.sum(dim=0, keepdim=True)


@pytest.mark.parametrize("tokenize", BLEU_TOKENIZERS)
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_of_the_sums_is_sacrebleus_of_the_corpus(tokenize: str, lowercase: bool) -> None:
    metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    for texts, references in CORPORA:
        rows = bleu_statistics(texts, references, tokenize=tokenize, lowercase=lowercase)
        expected = metric.corpus_score(texts, [references]).score
        assert float(bleu_of_sums(total(rows))) == pytest.approx(expected, abs=1e-9), (texts, references)


@pytest.mark.parametrize("lowercase", [False, True])
def test_chrf_of_the_sums_is_sacrebleus_of_the_corpus(lowercase: bool) -> None:
    metric = sacrebleu.CHRF(lowercase=lowercase)
    for texts, references in CORPORA:
        rows = chrf_statistics(texts, references, lowercase=lowercase)
        expected = metric.corpus_score(texts, [references]).score
        assert float(chrf_of_sums(total(rows))) == pytest.approx(expected, abs=1e-9), (texts, references)


def test_many_samples_at_once_have_the_scores_that_each_has_alone() -> None:
    texts, references = corpus(60, seed=3)
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    counts = bleu_statistics(texts, references, tokenize="13a", lowercase=False)
    characters = chrf_statistics(texts, references, lowercase=False)
    for weights in samples(60, 20, seed=5):
        scores = zip(bleu_of_sums(weights @ counts).tolist(), chrf_of_sums(weights @ characters).tolist(), strict=True)
        for row, found in zip(weights.to(torch.int64).tolist(), scores, strict=True):
            drawn = [number for number, times in enumerate(row) for _ in range(times)]
            sample = [texts[number] for number in drawn], [[references[number] for number in drawn]]
            expected = bleu.corpus_score(*sample).score, chrf.corpus_score(*sample).score
            assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_paired_bootstrap_draws_and_scores_as_sacrebleus_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its p-value and its interval, from our differences of the same 1,000 samples."""
    from sacrebleu.significance import PairedTest, estimate_ci

    monkeypatch.setenv("SACREBLEU_SEED", str(SACREBLEU_SEED))
    one, references = corpus(120, seed=11)
    other = [
        text if number % 40 else reference for number, (text, reference) in enumerate(zip(one, references, strict=True))
    ]
    metric = {"bleu": sacrebleu.BLEU(references=[references]), "chrf": sacrebleu.CHRF(references=[references])}[name]
    _, theirs = PairedTest(
        [("one", one), ("other", other)], {name: metric}, references=None, test_type="bs", n_samples=1000
    )()
    result = next(scores for title, scores in theirs.items() if title != "System")[1]
    ours = next(each for each in GENERATED_METRICS if each.name == name)
    scored = {title: evaluated(texts, references) for title, texts in (("one", one), ("other", other))}
    drawn = torch.cat(list(samples(120, 1000, seed=SACREBLEU_SEED)))
    differences = scored["other"].sampled(ours, drawn) - scored["one"].sampled(ours, drawn)
    # Its samples are summed in float32.
    mean, half = estimate_ci(scored["other"].sampled(ours, drawn).numpy())
    assert (mean, half) == pytest.approx((result.mean, result.ci), rel=1e-5)
    real = abs(scored["other"].score(ours) - scored["one"].score(ours))
    sizes = differences.abs()
    p_value = (1 + int((sizes - sizes.mean() > real).sum())) / 1001
    assert p_value == pytest.approx(result.p_value, abs=1e-12)
    assert 0.01 < p_value < 0.9, "a test that tells nothing otherwise"
    assert paired_differences(scored["other"], scored["one"], ours, SACREBLEU_SEED)[:1000] == pytest.approx(
        differences, abs=1e-9
    )


def evaluated(texts: list[str], references: list[str]) -> Evaluation:
    rows = generated_statistics(texts, references, bleu_tokenizer="13a", lowercase=False, stemmer=False)
    values = {name: row.to(torch.float64) for name, row in rows.items()}
    return Evaluation(metrics=GENERATED_METRICS, values=values)


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_rouge_scores_of_each_example(stemmer: bool) -> None:
    texts = ["the cats were running home", "", "a b c", "Über 你好"]
    references = ["the cat runs home", "something", "c b a", "Über 你好"]
    values = rouge_values(texts, references, stemmer=stemmer)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    for number, (text, reference) in enumerate(zip(texts, references, strict=True)):
        expected = scorer.score(reference, text)
        for name, its_name in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rougel", "rougeL")):
            assert float(values[name][number]) == pytest.approx(expected[its_name].fmeasure, abs=1e-7)


def test_exact_match_passes_over_white_space_at_the_ends_alone() -> None:
    texts = ["one two", " one two\n", "One two", "one  two", ""]
    assert exact_matches(texts, ["one two"] * 5).tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "reference", "errors"),
    [
        *(("a b c", "a b c", 0), ("", "a b c", 3), ("a b c", "", 3), ("a x c", "a b c", 1), ("a c", "a b c", 1)),
        *(("a b b c", "a b c", 1), ("c a b", "a b c", 2), ("x y", "a b c", 3)),
    ],
)
def test_word_errors_are_the_fewest_changes(text: str, reference: str, errors: int) -> None:
    assert edit_distance(text.split(), reference.split()) == errors
    assert word_errors([text], [reference]).tolist() == [errors]
    assert word_counts([reference]).tolist() == [len(reference.split())]


def test_word_errors_are_those_of_the_textbook() -> None:
    chance = random.Random(4)
    for _ in range(200):
        one, other = ([chance.choice("abcd") for _ in range(chance.randint(0, 9))] for _ in range(2))
        assert edit_distance(one, other) == textbook_distance(tuple(one), tuple(other))


@cache
def textbook_distance(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    if not one or not other:
        return len(one) + len(other)
    changed = textbook_distance(one[1:], other[1:]) + (one[0] != other[0])
    return min(changed, textbook_distance(one[1:], other) + 1, textbook_distance(one, other[1:]) + 1)


def test_word_error_rate_is_errors_over_words_of_the_whole_set() -> None:
    (wer,) = (metric for metric in GENERATED_METRICS if metric.name == "wer")
    scored = evaluated(["a b c d", "x"], ["a b c e", "x y z w"])
    assert scored.score(wer) == pytest.approx((1 + 3) / 8)


def test_every_generated_metric_has_its_statistics_and_a_score() -> None:
    texts, references = corpus(20, seed=2)
    scores = evaluated(texts, references).scores()
    assert scores.keys() == {metric.name for metric in GENERATED_METRICS}
    assert all(isinstance(metric, Metric) and metric.generated for metric in GENERATED_METRICS)


def test_a_batch_without_examples_has_no_rows() -> None:
    assert bleu_statistics([], [], tokenize="13a", lowercase=False).shape == (0, 10)
    assert chrf_statistics([], [], lowercase=False).shape == (0, 18)


def test_a_library_that_is_not_installed_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    # What was made while it was there.
    corpus_scores._bleu.cache_clear()
    with pytest.raises(TaskError, match=r"`sacrebleu` must be installed .* pip install 'ladle\[text\]'") as found:
        bleu_statistics(["a"], ["a"], tokenize="13a", lowercase=False)
    assert found.value.code == "missing-library"
