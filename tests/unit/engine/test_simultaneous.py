"""Intervals that hold for all candidates at once: held to a slow reference, and to how often they hold the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.gain import gain_over
from ladle_engine.evaluation.simultaneous import ONE, Compared, Simultaneous, simultaneous
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.joined import Strata
from ladle_engine.tasks.metrics import ratio

ACCURACY = Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
LOSS = Metric(name="loss", higher_is_better=False)
SHARE = Metric(name="share", higher_is_better=True, of=ratio("accuracy", "size"), statistics=("accuracy", "size"))


def evaluation(values: Tensor, metric: Metric = ACCURACY, strata: Strata | None = None) -> Evaluation:
    values = values.double()
    return Evaluation(metrics=(metric,), values={metric.name: values, "size": torch.ones_like(values)}, strata=strata)


def models(count: int, n: int, seed: int = 0, own: float = 0.5) -> list[Evaluation]:
    """Equally good ones, right on the same examples for the most part."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, generator=generator)
    return [evaluation(shared + own * torch.randn(n, generator=generator) > -0.8) for _ in range(count)]


def of(
    best: Evaluation, candidates: Sequence[Evaluation], metric: Metric = ACCURACY, **others: list[Evaluation]
) -> Simultaneous:
    return simultaneous(Compared(best=best, candidates=candidates, **others), metric, seed=0)


def test_one_average_against_one_checkpoint_has_the_interval_of_one_comparison_and_two_unseen_examples() -> None:
    best, average = models(2, 400)
    found = of(best, [average])
    single = gain_over(average, best, ACCURACY, seed=0)
    assert found.low == pytest.approx(ONE, rel=0.04)
    assert found.gains[0].value == single.value
    assert found.errors[0] == pytest.approx((single.high - single.value) / ONE)
    wide = math.sqrt(found.errors[0] ** 2 + 2 / (400 * 399))
    assert found.gains[0].high - found.gains[0].value == pytest.approx(found.high * wide)
    assert found.gains[0].value - found.gains[0].low == pytest.approx(found.low * wide)


def test_models_that_differ_on_no_example_may_still_differ() -> None:
    best, _ = models(2, 100)
    found = of(best, [evaluation(best.values["accuracy"].clone())])
    assert found.gains[0].value == 0
    assert found.gains[0].high == pytest.approx(ONE * math.sqrt(2 / (100 * 99)), rel=0.05)
    assert found.needed(0, 100) is None


def test_the_factors_are_those_of_a_slow_reference() -> None:
    """Gaussian multipliers example by example, in numpy; the bar is picked again in every draw."""
    *checkpoints, first, second, third = models(8, 300)
    best, *rest = sorted(checkpoints, key=lambda each: each.score(ACCURACY), reverse=True)
    found = of(best, [first, second], averages=[third], checkpoints=rest)

    bars = np.stack([each.values["accuracy"].numpy() for each in (best, *rest)])
    averages = np.stack([each.values["accuracy"].numpy() for each in (first, second, third)])
    rng = np.random.default_rng(1)
    below, above = [], []
    for _ in range(4000):
        xi = rng.standard_normal(300)
        errors = {}
        for name, rows in (("bar", bars), ("average", averages)):
            errors[name] = [float(xi @ (row - row.mean())) / 300 for row in rows]
        picked = int(np.argmax([row.mean() + error for row, error in zip(bars, errors["bar"], strict=True)]))

        def t(j: int, i: int, errors: dict[str, list[float]] = errors) -> float:
            return float((errors["average"][j] - errors["bar"][i]) / ((averages[j] - bars[i]).std() / math.sqrt(300)))

        below.append(max(t(j, picked) for j in range(3)))
        above.append(max(-t(j, i) for j, i in itertools.product(range(2), range(len(bars)))))
    assert found.low == pytest.approx(max(ONE, np.quantile(below, 0.975)), rel=0.06)
    assert found.high == pytest.approx(np.quantile(above, 0.975), rel=0.06)


def test_what_was_tried_and_given_up_counts_and_what_was_beaten_does_not() -> None:
    best, average, *others = models(42, 1000)
    alone = of(best, [average])
    whole = of(best, [average], averages=others)
    in_part = of(best, [average], averages=[each.first(500) for each in others])
    untold = of(best, [average], averages=[each.first(1) for each in others])
    assert alone.low < whole.low < untold.low
    assert whole.low <= in_part.low * 1.03
    assert untold.low == pytest.approx(3.23, rel=0.05), "as many independent ones: 1 - 0.025 / 41"
    assert (whole.averages, whole.in_part, in_part.in_part) == (41, 0, 40)
    poor = [evaluation(torch.rand(1000) < 0.1) for _ in range(20)]
    assert of(best, [average], averages=poor, checkpoints=poor) == alone


def test_other_checkpoints_that_may_have_been_the_lucky_one_raise_the_upper_end() -> None:
    best, average, *others = models(22, 1000)
    alone, found = of(best, [average]), of(best, [average], checkpoints=others)
    assert found.high > 1.2 * alone.high
    assert found.checkpoints == 21
    assert found.low <= alone.low


def test_a_metric_that_is_better_when_lower_mirrors_one_that_is_better_when_higher() -> None:
    best, *others = models(6, 300)

    def mirrored(each: Evaluation) -> Evaluation:
        return evaluation(1 - each.values["accuracy"], Metric(name="wrong", higher_is_better=False, low=0.0, high=1.0))

    one = of(best, others[:3], checkpoints=others[3:])
    wrong = of(*(mirrored(best), [mirrored(each) for each in others[:3]]), metric=mirrored(best).metrics[0],
               checkpoints=[mirrored(each) for each in others[3:]])  # fmt: skip
    for gain, other in zip(one.gains, wrong.gains, strict=True):
        assert gain.value == pytest.approx(other.value)
        assert gain.low == pytest.approx(other.low, abs=2e-3)
        assert gain.high == pytest.approx(other.high, abs=2e-3)


def test_a_metric_that_is_a_function_of_sums_has_the_bootstraps_errors() -> None:
    best, *others = models(6, 400)

    def as_share(each: Evaluation) -> Evaluation:
        return Evaluation(metrics=(SHARE,), values=each.values)

    mean = of(best, others[:3], averages=[others[3].first(200)], checkpoints=[others[4]])
    share = simultaneous(
        Compared(
            best=as_share(best),
            candidates=[as_share(each) for each in others[:3]],
            averages=[as_share(others[3].first(200))],
            checkpoints=[as_share(others[4])],
        ),
        SHARE,
        seed=0,
    )
    assert share.errors == pytest.approx(mean.errors, rel=0.06)
    assert (share.low, share.high) == pytest.approx((mean.low, mean.high), rel=0.06)
    assert share.in_part == 1


def test_several_sets_are_weighted_and_each_has_intervals_of_its_own() -> None:
    strata = Strata(weights=(0.75, 0.25), of=torch.tensor([0] * 300 + [1] * 200))
    best, *others = [evaluation(each.values["accuracy"], strata=strata) for each in models(4, 500)]
    compared = Compared(best=best, candidates=others[:2], averages=others[2:])
    found = simultaneous(compared, ACCURACY, seed=0)
    single = gain_over(others[0], best, ACCURACY, seed=0)
    assert found.gains[0].value == pytest.approx(single.value)
    assert found.errors[0] == pytest.approx((single.high - single.value) / ONE)
    first = simultaneous(compared.on_set(0), ACCURACY, seed=0)
    assert first.gains[0].value == pytest.approx(gain_over(others[0].sets[0][1], best.sets[0][1], ACCURACY, 0).value)


def test_equal_input_gives_equal_intervals() -> None:
    best, *others = models(12, 200)
    one, other = (of(best, others[:4], averages=others[4:8], checkpoints=others[8:]) for _ in range(2))
    assert one == other


def test_as_many_examples_as_are_needed_show_the_gain_four_times_in_five() -> None:
    generator = torch.Generator().manual_seed(0)

    def pair(n: int) -> tuple[Evaluation, Evaluation]:
        shared = torch.randn(n, generator=generator)
        return evaluation(shared, LOSS), evaluation(shared + torch.randn(n, generator=generator) - 0.1, LOSS)

    best, average = pair(100_000)
    found = of(best, [average], LOSS)
    count = found.needed(0, 100_000)
    assert count == pytest.approx(((ONE + 0.8416) / 0.1) ** 2, rel=0.12)
    pairs = [pair(count) for _ in range(60)]
    seen = [of(one, [other], LOSS).gains[0].low > 0 for one, other in pairs]
    assert 0.65 <= sum(seen) / 60 <= 0.95
    assert found.visible(0) == pytest.approx(found.gains[0].value * math.sqrt(count / 100_000), rel=0.01)


@pytest.mark.parametrize(("K", "ahead", "better"), [(1, 0.0, 0.0), (8, 0.0, 0.0), (8, 0.0, 0.3), (8, 1.0, 0.0)])
def test_the_interval_of_what_is_returned_holds_the_true_gain_in_95_percent(
    monkeypatch: pytest.MonkeyPatch, K: int, ahead: float, better: float
) -> None:
    """The best of 15 averages over the best of K checkpoints: all equal, averages better, or one checkpoint far ahead,
    which nothing but the averages' luck can beat. The interval of one comparison fails in some of them."""
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr("ladle_engine.evaluation.error_draws.MOST_DRAWS", 400)
    held, single_held, runs, n = 0, 0, 300, 100
    truths = torch.tensor([ahead] + [0.0] * (K - 1) + [ahead + better] * 15)
    for _ in range(runs):
        shared = torch.randn(1, n, generator=generator)
        rows = truths[:, None] + shared + torch.randn(K + 15, n, generator=generator)
        known = [evaluation(each, Metric(name="score", higher_is_better=True)) for each in rows]
        score = known[0].metrics[0]
        best = max(range(K), key=lambda i: known[i].score(score))
        winner = max(range(K, K + 15), key=lambda j: known[j].score(score))
        if known[winner].score(score) <= known[best].score(score):
            held, single_held = held + 1, single_held + 1
            continue
        found = simultaneous(
            Compared(
                best=known[best],
                candidates=[known[winner]],
                averages=[known[j] for j in range(K, K + 15) if j != winner],
                checkpoints=[known[i] for i in range(K) if i != best],
            ),
            score,
            seed=0,
        )
        truth = float(truths[winner] - truths[best])
        single = gain_over(known[winner], known[best], score, seed=0)
        held += found.gains[0].low <= truth <= found.gains[0].high
        single_held += single.low <= truth <= single.high
    assert held / runs >= 0.94, "0.95 less what so many runs leave open"
    if K == 1 or ahead:
        assert single_held / runs < 0.9


def test_no_interval_reaches_beyond_the_range_of_the_metric() -> None:
    best, candidate = (evaluation(torch.tensor(values), ACCURACY) for values in ([0.0, 0.0, 0.0, 1.0], [1.0] * 4))
    found = simultaneous(Compared(best=best, candidates=[candidate]), ACCURACY, 0)
    (gain,) = found.gains
    assert (gain.value, gain.high) == (0.75, 1.0)
    assert found.high * found.errors[0] > 0.25, "or it would not reach so far"
    assert -1.0 <= gain.low <= gain.value
