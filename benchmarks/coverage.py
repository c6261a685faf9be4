"""How often a stated interval holds the true gain: `python benchmarks/coverage.py`. With `--seconds`: what it takes.

K checkpoints and their averages are judged on n examples, and the best is returned, as a job does: the best checkpoint,
the uniform average, the best of the last k, the best decay and the best of five multiples of trained coefficients. What
is stated is the gain of what is returned over the checkpoint that was best. The truth is known, because a model's score
of an example is normal: how easy the example is, which all models share, and the model's own part, of which an average
has less. A model is right where the score is above zero (accuracy, 80 %), or its loss is `exp(-score)`.

| models | |
|---|---|
| apart | all are equally good, and each has a part of its own, also the averages |
| equal | all are equally good; averages have the average of their checkpoints' parts |
| raced | the same, and what was not picked is known on half of the examples |
| one ahead | one checkpoint is ten standard errors better than the others, and averages are as good as that one |
| better | averages are better by two standard errors of a difference between two checkpoints |
| mixed | all differ, by a normal number of such standard errors |

Today's interval is that of one comparison, the new one `ladle_engine.evaluation.simultaneous`: its maxima and draws are
the engine's own, and what stands around them is done here for a matrix of values, because the engine's objects would
take most of the time (`tests/unit/benchmarks/test_coverage.py` holds the two together).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import torch
from measuring import clock, parser_of, results_path, save, table_lines
from torch import Tensor

from ladle_engine.evaluation.error_draws import multiplied
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.racing import SIGMAS
from ladle_engine.evaluation.racing import UNSEEN as UNSEEN_IN_RACE
from ladle_engine.evaluation.simultaneous import ONE, UNSEEN, Compared, factors, simultaneous
from ladle_engine.methods.fixed import ALL_K, decays, evenly, geometric
from ladle_engine.tasks.base import Metric

MODELS = ("apart", "equal", "raced", "one ahead", "better", "mixed")
METRICS = ("accuracy", "loss")
SIZES = ((5, 100), (5, 5000), (50, 500), (300, 100), (300, 500), (300, 5000))
"""K and n."""
PART = 100
"""Repetitions of a cell until it is the next one's turn: a run that is cut short has some of each."""
DRAWS = 400
"""Fewer than a job's 2,000: over many repetitions their noise is averaged out."""
OWN = 0.3
"""Share of a checkpoint's own part in the variance of a score."""
GOOD = {"accuracy": 0.8, "loss": -0.6}
"""What models reach; more is better."""
NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class World:
    """Candidates are groups of averages, of which the best one is picked."""

    metric: str
    models: str
    K: int
    n: int
    alpha_KM: Tensor
    groups: tuple[slice, ...]

    def spread(self, share_M: Tensor) -> Tensor:
        """The standard deviation of a score with this share of own parts."""
        return (1 - OWN + OWN * share_M).sqrt()

    def means(self, good_M: Tensor, share_M: Tensor) -> Tensor:
        """Of the scores of models that are so good."""
        spread_M = self.spread(share_M)
        if self.metric == "accuracy":
            normal_M: Tensor = torch.special.ndtri(good_M)
            return spread_M * normal_M
        return spread_M.square() / 2 - (-good_M).log()

    def values(self, scores: Tensor) -> Tensor:
        return (scores > 0).float() if self.metric == "accuracy" else -(-scores).exp()


def world(metric: str, models: str, K: int, n: int) -> World:
    ages_K = torch.arange(K - 1, -1, -1, dtype=torch.float32)
    ks = evenly(2, K) if K <= ALL_K else geometric(2, K)
    last = [(ages_K < k).float() / k for k in ks]
    ema = [(1 - decay) * decay**ages_K for decay in decays(K)]
    generator = torch.Generator().manual_seed(K)
    trained_K = torch.randn(K, generator=generator) / K
    trained_K -= trained_K.mean()
    multiples = [1 / K + far * trained_K for far in (0.25, 0.5, 1.0, 1.5, 2.0)]
    families = [[torch.full((K,), 1 / K)], last, [each / each.sum() for each in ema], multiples]
    ends = torch.tensor([0, *map(len, families)]).cumsum(0).tolist()
    alpha_KM = torch.stack([each for family in families for each in family], dim=1)
    groups = tuple(slice(a, b) for a, b in pairwise(ends))
    return World(metric=metric, models=models, K=K, n=n, alpha_KM=alpha_KM, groups=groups)


def one_error(here: World) -> float:
    """The standard error of the difference between two equal checkpoints on n examples."""
    generator = torch.Generator().manual_seed(0)
    good = torch.full((2,), GOOD[here.metric])
    shared, own = torch.randn(200_000, 1, generator=generator), torch.randn(200_000, 2, generator=generator)
    scores = here.means(good, torch.ones(2)) + math.sqrt(1 - OWN) * shared + math.sqrt(OWN) * own
    values = here.values(scores)
    return float((values[:, 0] - values[:, 1]).std()) / math.sqrt(here.n)


def drawn(here: World, error: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Values [n, K + M] of checkpoints and averages, and how good each is [K + M]."""
    K, M, n = here.K, here.alpha_KM.shape[1], here.n
    own_nK = torch.randn(n, K, generator=generator)
    share = torch.cat([torch.ones(K), here.alpha_KM.square().sum(dim=0)])
    if here.models == "apart":
        averages_nM, share = torch.randn(n, M, generator=generator), torch.ones(K + M)
    else:
        averages_nM = own_nK @ here.alpha_KM
    good = torch.full((K + M,), GOOD[here.metric])
    if here.models == "better":
        good[K:] += 2 * error
    elif here.models == "one ahead":
        good[: K - 1] -= 10 * error
    elif here.models == "mixed":
        good += error * torch.randn(K + M, generator=generator)
    good = good.clamp(max=0.99 if here.metric == "accuracy" else -0.01)
    shared_n1 = math.sqrt(1 - OWN) * torch.randn(n, 1, generator=generator)
    scores = here.means(good, share) + shared_n1 + math.sqrt(OWN) * torch.cat([own_nK, averages_nM], dim=1)
    return here.values(scores), good


@dataclass(frozen=True, kw_only=True)
class Stated:
    """Of one repetition; of `picked`, which are the candidates."""

    gains: Tensor
    single: Tensor
    wide: Tensor
    """Standard errors, of one comparison and of the new interval."""
    low: float
    high: float
    truth: Tensor
    returned: int | None
    """None for the best checkpoint, whose gain is 0."""


def stated(here: World, values: Tensor, good: Tensor, seed: int) -> Stated:
    """What a job would say."""
    K, n = here.K, here.n
    means = values.mean(dim=0)
    best = int(means[:K].argmax())
    picked = torch.tensor([K + each.start + int(means[K:][each].argmax()) for each in here.groups])
    leader = max([best, *picked.tolist()], key=lambda index: float(means[index]))
    centred = (values - means) / math.sqrt(n * (n - 1))
    covariance = centred.T @ centred
    spans = values.amax(dim=0) - values.amin(dim=0)

    def left(numbers: Iterable[int], ahead: int) -> Tensor:
        """Those that are not beaten, by the rule of `racing.is_beaten` for a population."""
        which = torch.tensor(list(numbers), dtype=torch.int64)
        behind = means[ahead] - means[which] - UNSEEN_IN_RACE * torch.maximum(spans[which], spans[ahead]) / n
        return which[~(behind > SIGMAS * variances(covariance, which, ahead).sqrt())]

    others_K = left((i for i in range(K) if i != best), best)
    others_M = left((j for j in range(K, len(means)) if j not in picked), leader)
    first = torch.tensor([best])
    if here.models == "raced":
        half = values[: n // 2, torch.cat([others_M, others_K])] - values[: n // 2, [best]]
        half = torch.nn.functional.pad(half - half.mean(dim=0), (0, 0, 0, n - n // 2))
        drawn_ = multiplied(torch.cat([centred[:, [best, *picked]], half], dim=1), DRAWS, seed)
        bars, candidates, ahead, beside = drawn_.split([1, len(picked), len(others_M), len(others_K)], dim=1)
        averages, whole_means = ahead[:, :0], means[first]
    else:
        which, whole_means = torch.cat([first, others_K, picked, others_M]), means[torch.cat([first, others_K])]
        drawn_ = (
            multiplied(centred[:, which], DRAWS, seed)
            if n <= 2 * len(which)
            else from_covariance(covariance[which][:, which].double(), seed).float()
        )
        bars, candidates, averages = drawn_.split([1 + len(others_K), len(picked), len(others_M)], dim=1)
        ahead = beside = averages[:, :0]
    low, high = factors(
        bars, whole_means, candidates, averages, *(each / each.square().mean(dim=0).sqrt() for each in (ahead, beside))
    )
    variance = variances(covariance, picked, best)
    largest = (values[:, picked] - values[:, [best]]).abs().amax(dim=0)
    largest = torch.where(largest > 0, largest, 1.0 if here.metric == "accuracy" else 0.0)
    return Stated(
        gains=means[picked] - means[best],
        single=variance.sqrt(),
        wide=(variance + UNSEEN * largest.square() / (n * (n - 1))).sqrt(),
        low=low,
        high=high,
        truth=good[picked] - good[best],
        returned=None if leader == best else picked.tolist().index(leader),
    )


def variances(covariance: Tensor, which: Tensor, other: int) -> Tensor:
    """Of their differences to another one."""
    own = covariance.diagonal()
    return (own[which] + own[other] - 2 * covariance[which, other]).clamp(min=0)


def from_covariance(covariance: Tensor, seed: int) -> Tensor:
    """As `multiplied`, which draws with this covariance."""
    jitter = 1e-5 * covariance.diagonal().mean() * torch.eye(len(covariance))
    generator = torch.Generator().manual_seed(seed)
    root: Tensor = torch.linalg.cholesky(covariance + jitter)
    return torch.randn(DRAWS, len(covariance), generator=generator).double() @ root.T


def cell(metric: str, models: str, K: int, n: int, first: int, count: int) -> dict[str, Any]:
    """So many repetitions, from that one on."""
    here = world(metric, models, K, n)
    error, generator = one_error(here), torch.Generator().manual_seed(K * n + first)
    numbers = range(first, first + count)
    rows = [counted(stated(here, *drawn(here, error, generator), seed=number)) for number in numbers]
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    named = {"metric": metric, "models": models, "K": K, "n": n, "repetitions": count}
    return named | dict(zip(COUNTS, means, strict=True))


def together(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two parts of a cell."""
    total = one["repetitions"] + other["repetitions"]
    means = {name: sum(each[name] * each["repetitions"] for each in (one, other)) / total for name in COUNTS}
    return one | means | {"repetitions": total}


COUNTS = (
    "averages",
    "single",
    "simultaneous",
    "all",
    "single_below",
    "below",
    "single_claims",
    "claims",
    "single_false",
    "false",
    "low",
    "high",
)
"""Shares of the repetitions: an average was returned; the interval of one comparison, and the new one, held the true
gain of what was returned; the new ones those of all candidates; a true gain was below the interval; an average was said
to be better for sure; that was false. And the two factors, on average."""


def counted(told: Stated) -> list[float]:
    held = (told.gains - told.low * told.wide <= told.truth) & (told.truth <= told.gains + told.high * told.wide)
    if told.returned is None:
        return [0, 1, 1, float(held.all()), 0, 0, 0, 0, 0, 0, told.low, told.high]
    gain, truth = float(told.gains[told.returned]), float(told.truth[told.returned])
    one = ONE * float(told.single[told.returned])
    low, high = (factor * float(told.wide[told.returned]) for factor in (told.low, told.high))
    return [
        1, gain - one <= truth <= gain + one, gain - low <= truth <= gain + high, float(held.all()),
        truth < gain - one, truth < gain - low,
        gain > one, gain > low, gain > one and truth <= 0, gain > low and truth <= 0, told.low, told.high,
    ]  # fmt: skip


def cells() -> Iterator[tuple[str, str, int, int]]:
    """The quick ones first."""
    for K, n in SIZES:
        yield from ((metric, models, K, n) for metric in METRICS for models in MODELS)


COLUMNS = {
    "averages returned": "averages",
    "held, one": "single",
    "held, all": "simultaneous",
    "candidates, all": "all",
    "below, one": "single_below",
    "below, all": "below",
    "false, one": "single_false",
    "false, all": "false",
    "claims, one": "single_claims",
    "claims, all": "claims",
}


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Coverage of the stated gain",
        "",
        "In percent of the repetitions. *One* is the interval of a single comparison, *all* the simultaneous one. "
        "*Held*: it held the true gain of what was returned over the checkpoint that was best; a returned best "
        "checkpoint has a gain of 0, which holds. *Candidates*: it held those of all candidates at once. *Below*: the "
        "true gain was below it. *False*: an average was called better beyond chance, and is not. *Claims*: how often "
        "one was, rightly or not. *Factors*: standard errors down and up, instead of 1.96. `benchmarks/coverage.py` "
        "says what the models are.",
        "",
    ]
    for metric in METRICS:
        own = [row for row in rows if row["metric"] == metric]
        lines += [f"## {metric}", *(_table(own) if own else []), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    table = [
        [
            row["models"],
            *(f"{row[name]:,}" for name in ("K", "n", "repetitions")),
            *(f"{100 * row[name]:.1f}" for name in COLUMNS.values()),
            f"{row['low']:.2f}, {row['high']:.2f}",
        ]
        for row in sorted(rows, key=lambda row: (MODELS.index(row["models"]), row["K"], row["n"]))
    ]
    return table_lines(["models", "K", "n", "repetitions", *COLUMNS, "factors"], table)


TIMED = ((28, 12, 1_000), (28, 12, 5_000), (300, 300, 5_000))
"""Averages, checkpoints and examples."""


def seconds(averages: int, checkpoints: int, n: int) -> float:
    """What the engine takes for the intervals of a job in which nothing was beaten."""
    metric = Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
    values = torch.rand(averages + checkpoints, n, generator=torch.Generator().manual_seed(0)) < GOOD["accuracy"]
    models = [Evaluation(metrics=(metric,), values={metric.name: each.double()}) for each in values]
    best, *others = sorted(models[averages:], key=lambda each: -each.score(metric))
    compared = Compared(best=best, candidates=models[:6], averages=models[6:averages], checkpoints=others)
    started = clock(torch.device("cpu"))
    simultaneous(compared, metric, seed=0)
    return clock(torch.device("cpu")) - started


def main() -> None:
    parser = parser_of(__doc__, quick="some repetitions of the small cells", cpu_only=True)
    parser.add_argument(
        "--repetitions", type=int, default=1000, help="of every cell; more are added to those in the file"
    )
    parser.add_argument(
        "--up-to", type=int, default=10**9, metavar="VALUES", help="only cells of so many values: K times n"
    )
    parser.add_argument("--seconds", action="store_true", help="only what the intervals of a job take")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.seconds:
        for counts in TIMED:
            told = "{} averages, {} checkpoints and {:,} examples".format(*counts)
            print(f"{told}: {seconds(*counts):.2f} s of one core")
        return
    path = results_path("coverage", quick=arguments.quick)
    found = json.loads(path.read_text()) if path.exists() and not arguments.quick else []
    known: dict[Any, dict[str, Any]] = {(row["metric"], row["models"], row["K"], row["n"]): row for row in found}
    most = 5_000 if arguments.quick else arguments.up_to
    todo = [each for each in cells() if each[2] * each[3] <= most]
    while todo:
        for each in list(todo):
            done = known[each]["repetitions"] if each in known else 0
            more = min(PART, arguments.repetitions - done)
            if more <= 0:
                todo.remove(each)
                continue
            row = cell(*each, first=done, count=more)
            known[each] = together(known[each], row) if each in known else row
            save("coverage", list(known.values()), report(list(known.values())), quick=arguments.quick)
    print(report(list(known.values())))


if __name__ == "__main__":
    main()
