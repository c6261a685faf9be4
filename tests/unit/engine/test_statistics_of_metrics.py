"""Metrics that are no means over examples: exact whatever the batches and ranks, compared by a paired bootstrap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from torch import Tensor, nn

from ladle_engine import average
from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.errors import TaskError
from ladle_engine.evaluation.bootstrap import num_samples, paired_differences, percentiles, samples
from ladle_engine.evaluation.cache import Evaluations
from ladle_engine.evaluation.evaluate import Evaluation, evaluate
from ladle_engine.evaluation.gain import gain_over
from ladle_engine.evaluation.racing import race
from ladle_engine.methods.context import served_in
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.choose import choose_task
from ladle_engine.tasks.contract import broken_declarations
from ladle_engine.tasks.examples import Examples
from ladle_engine.tasks.guard import guard
from ladle_engine.tasks.metrics import exp_ratio, of_sums, ratio
from ladle_engine.testing import check_task
from tests.unit.engine.toy import ToyTask, write_checkpoints

PERPLEXITY = Metric(
    name="perplexity",
    higher_is_better=False,
    low=0.0,
    of=exp_ratio("nll", "tokens"),
    statistics=("nll", "tokens"),
    rises_with="nll",
)
LOSS = Metric(
    name="loss",
    higher_is_better=False,
    low=0.0,
    of=ratio("nll", "tokens"),
    statistics=("nll", "tokens"),
    rises_with="nll",
)
FREE = Metric(
    name="free",
    higher_is_better=True,
    of=of_sums(lambda sums: -sums["nll"] / sums["tokens"]),
    statistics=("nll", "tokens"),
)


class TokensTask(ToyTask):
    """Examples of one to five "tokens", whose losses are the squared errors of the toy's."""

    metrics = (PERPLEXITY, LOSS)

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        tokens = 1 + (batch["x"][:, 0].abs() * 100).long() % 5
        return {"nll": (model(batch["x"]) - batch["y"]).square().mean(dim=1) * tokens, "tokens": tokens}


class SpokenTask(TokensTask):
    """With a metric of what the model "generates"."""

    metrics = (
        LOSS,
        Metric(
            name="words",
            higher_is_better=True,
            of=ratio("right", "words"),
            statistics=("right", "words"),
            generated=True,
        ),
    )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._generated = 0

    def generate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self._generated += len(batch["x"])
        error = (model(batch["x"]) - batch["y"]).abs().mean(dim=1)
        return {"right": (error < 0.3).float(), "words": torch.ones(len(error), 2)[:, 0]}


def tokens_evaluation(nll: list[float], tokens: list[int]) -> Evaluation:
    return Evaluation(
        metrics=TokensTask.metrics,
        values={"nll": torch.tensor(nll, dtype=torch.float64), "tokens": torch.tensor(tokens, dtype=torch.float64)},
    )


def test_a_ratio_of_sums_is_that_of_the_whole_set_and_not_a_mean_of_ratios() -> None:
    evaluation = tokens_evaluation([2.0, 30.0], [1, 3])
    assert evaluation.score(LOSS) == 32 / 4
    assert math.isclose(evaluation.score(PERPLEXITY), math.exp(8))
    assert evaluation.scores() == {"perplexity": pytest.approx(math.exp(8)), "loss": 8.0}


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_a_metric_is_the_same_at_any_batch_size(batch_size: int, tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, lambda: nn.Linear(6, 1), count=2)
    torch.manual_seed(0)
    model = nn.Linear(6, 1)

    def scores(batch_size: int) -> dict[str, float]:
        task = TokensTask(batch_size=batch_size)
        examples = Examples(
            task=task, data=task.open_data(tmp_path, checkpoints), indices=torch.arange(61), device=torch.device("cpu")
        )
        return evaluate(model, examples, SingleProcess()).scores()

    assert scores(batch_size) == pytest.approx(scores(61), rel=1e-6)


def test_two_losses_over_the_same_tokens_race_as_means_do_and_others_never_give_up() -> None:
    seen: list[int] = []
    torch.manual_seed(0)
    N, K = 6_000, 6
    nll_NK = torch.rand(N, 1).double() + 0.1 * torch.arange(K).double() + 0.05 * torch.rand(N, K).double()
    tokens_N = torch.randint(1, 9, (N,))

    class Table(TokensTask):
        metrics = (FREE, PERPLEXITY, LOSS)

        def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            seen.append(len(batch["index"]))
            rows = batch["index"]
            return {"nll": nll_NK[rows] @ model.alpha_K * tokens_N[rows], "tokens": tokens_N[rows]}

    class Indices:
        def __len__(self) -> int:
            return N

        def batch(self, indices: Tensor) -> Batch:
            return {"index": indices}

    def run(metric: Metric) -> tuple[int, int]:
        seen.clear()
        model = nn.Module()
        task = Table(batch_size=64)
        examples = Examples(task=task, data=Indices(), indices=torch.arange(N), device=torch.device("cpu"))

        def load_weights(coefficients: Coefficients, recomputed: object, exactly: bool) -> Mapping[str, Tensor]:
            model.alpha_K = coefficients.alpha_KG[:, 0]
            return {}

        evaluations = Evaluations(
            {"select": examples}, model=model, load_weights=load_weights, approximate=lambda coefficients: None,
            collectives=SingleProcess(), state=ResumeState(None, ""), seed=0,
        )  # fmt: skip
        names = [f"step-{i}" for i in range(K)]
        contenders = [Coefficients.whole_model(names, ["weight"], torch.eye(K).double()[i]) for i in range(K)]
        return race(evaluations, contenders, "select", metric), sum(seen)

    winner, examples_seen = run(PERPLEXITY)
    assert winner == 0
    assert examples_seen < N * K / 2
    assert run(FREE) == (0, N * K)


def test_resamples_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.cat(list(samples(37, 101, seed=3)))
    assert torch.equal(whole.sum(dim=1), torch.full((101,), 37.0, dtype=torch.float64))
    monkeypatch.setattr("ladle_engine.evaluation.bootstrap.CHUNK_DRAWS", 37 * 7)
    monkeypatch.setattr("ladle_engine.evaluation.bootstrap.MOST_KEPT", 0)
    assert torch.equal(torch.cat(list(samples(37, 101, seed=3))), whole)
    drawn = np.random.default_rng(3).choice(37, size=(101, 37), replace=True)
    assert torch.equal(whole[5], torch.bincount(torch.from_numpy(drawn[5]), minlength=37).double())


def test_more_examples_than_time_allows_get_fewer_resamples() -> None:
    assert [num_samples(count) for count in (2, 1_000, 20_000, 100_000, 10**7)] == [
        10_000,
        10_000,
        10_000,
        2_000,
        1_000,
    ]


def test_the_interval_of_a_mean_by_the_bootstrap_is_close_to_that_of_the_z_test() -> None:
    """Both are there for a mean: as a function of sums, and as a mean."""
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 500, generator=generator).double()
    ones = torch.ones(500, dtype=torch.float64)
    mean = Metric(name="value", higher_is_better=True)
    as_ratio = Metric(name="ratio", higher_is_better=True, of=ratio("value", "one"), statistics=("value", "one"))
    evaluations = [
        Evaluation(metrics=(mean, as_ratio), values={"value": values, "one": ones}) for values in (one + 0.3, other)
    ]
    by_z, by_samples = gain_over(*evaluations, mean, seed=0), gain_over(*evaluations, as_ratio, seed=0)
    assert math.isclose(by_z.value, by_samples.value)
    width = by_z.high - by_z.low
    assert abs(by_z.low - by_samples.low) < 0.05 * width
    assert abs(by_z.high - by_samples.high) < 0.05 * width
    assert gain_over(*evaluations, as_ratio, seed=0) == by_samples


def test_pairing_makes_the_interval_of_two_alike_models_narrow() -> None:
    generator = torch.Generator().manual_seed(0)
    nll = 5 * torch.rand(300, generator=generator).double()
    tokens = torch.randint(1, 30, (300,), generator=generator)
    one = tokens_evaluation((nll * tokens).tolist(), tokens.tolist())
    other = tokens_evaluation(((nll + 0.01) * tokens).tolist(), tokens.tolist())
    gain = gain_over(one, other, LOSS, seed=0)
    assert gain.value == pytest.approx(0.01)
    assert (gain.low, gain.high) == (pytest.approx(0.01), pytest.approx(0.01))


def test_the_paired_bootstrap_of_bleu_is_sacrebleus() -> None:
    """The example is made of words drawn at random, of which one system gets more right than the other."""
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30)]
    references = [" ".join(generator.choice(words, size=generator.integers(5, 20))) for _ in range(80)]

    def system(share_wrong: float) -> list[str]:
        return [
            " ".join(generator.choice(words) if generator.random() < share_wrong else word for word in text.split())
            for text in references
        ]

    first, second = system(0.2), system(0.25)
    theirs = PairedTest(
        [("baseline", first), ("system", second)], {"BLEU": BLEU()}, references=[references],
        test_type="bs", n_samples=1000,
    )  # fmt: skip
    bleu = BLEU(references=[references])

    def evaluation(system: list[str]) -> Evaluation:
        rows = torch.tensor(bleu._extract_corpus_statistics(system, None), dtype=torch.float64)
        return Evaluation(metrics=(metric,), values={"counts": rows})

    def scores(sums: Mapping[str, Tensor]) -> Tensor:
        rows = sums["counts"].to(torch.int64).tolist()
        return torch.tensor([bleu._compute_score_from_stats(row).score for row in rows], dtype=torch.float64)

    metric = Metric(name="bleu", higher_is_better=True, of=of_sums(scores), statistics=("counts",))
    (weights,) = samples(80, 1000, seed=12345)
    ours = [evaluation(system).sampled(metric, weights) for system in (first, second)]
    _, results = theirs()
    found = results["BLEU"]
    # sacrebleu sums in float32 here.
    assert evaluation(first).score(metric) == pytest.approx(found[0].score, abs=1e-6)
    assert evaluation(second).score(metric) == pytest.approx(found[1].score, abs=1e-6)
    # Their estimate of the means of the resampled scores, and of half the width of their intervals.
    for result, values in zip(found, ours, strict=True):
        assert result.mean == pytest.approx(float(values.mean()), abs=1e-6)
    differences = ours[0] - ours[1]
    null = (differences - differences.mean()).abs()
    p_value = (int((null > abs(found[0].score - found[1].score)).sum()) + 1) / 1001
    assert p_value == pytest.approx(found[1].p_value, abs=2 / 1001)


def test_the_percentiles_hold_the_middle() -> None:
    assert percentiles(torch.arange(0, 1001).double(), 0.95) == (pytest.approx(25), pytest.approx(975))


def test_differences_are_of_the_same_samples() -> None:
    one = tokens_evaluation([1.0, 2.0, 3.0], [1, 1, 1])
    assert not paired_differences(one, one, LOSS, seed=0).any()


def test_a_job_is_judged_by_a_ratio(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    outcome = average(tmp_path / "c", tmp_path / "c", output=tmp_path / "o", task=TokensTask(lambda: nn.Linear(6, 1)))
    best, *others = outcome.candidates
    assert outcome.metric == "perplexity"
    for candidate in (best, *others):
        assert candidate.select["perplexity"] == pytest.approx(math.exp(candidate.select["loss"]))
        assert candidate.gain == pytest.approx(best.select["perplexity"] - candidate.select["perplexity"])
        assert candidate.gain_low <= candidate.gain <= candidate.gain_high


def test_what_is_generated_is_computed_only_where_it_judges(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    for metric in ("loss", "words"):
        task = SpokenTask(lambda: nn.Linear(6, 1))
        outcome = average(
            tmp_path / "c", tmp_path / "c", output=tmp_path / metric, task=task, metric=metric, method="uniform"
        )
        assert (task._generated > 0) is (metric == "words")
        assert all(("words" in candidate.select) is (metric == "words") for candidate in outcome.candidates)
        assert not any("words" in candidate.fit for candidate in outcome.candidates)
        assert all("loss" in candidate.select for candidate in outcome.candidates)


def test_what_was_generated_is_not_generated_again_after_a_crash(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    counts = []
    for attempt in ("first", "second"):
        task = SpokenTask(lambda: nn.Linear(6, 1))
        average(
            tmp_path / "c", tmp_path / "c", output=tmp_path / attempt, task=task, metric="words", method="uniform",
            state_dir=tmp_path / "state",
        )  # fmt: skip
        counts.append(task._generated)
    first_batch = 8
    assert counts[0] > first_batch
    assert counts[1] == first_batch, "only the look at the first batch"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric(name="x", higher_is_better=True, of=ratio("a", "b")), "name the `statistics`"),
        (Metric(name="x", higher_is_better=True, statistics=("a",)), "only beside `of`"),
        (Metric(name="x", higher_is_better=True, rises_with="a"), "only beside `of`"),
        (
            Metric(name="x", higher_is_better=True, of=ratio("a", "b"), statistics=("a", "b"), rises_with="c"),
            "name one of the `statistics`",
        ),
        (Metric(name="x", higher_is_better=True, generated=True), "there are `generated` metrics"),
        (Metric(name="x", higher_is_better=True, of=1, statistics=("a",)), "have functions"),  # type: ignore[arg-type]
    ],
)
def test_a_metric_that_contradicts_itself_is_named(metric: Metric, words: str) -> None:
    class Task(ToyTask):
        metrics = (metric, Metric(name="loss", higher_is_better=False))

    (broken,) = broken_declarations(Task)
    assert words in broken.message("toy")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (lambda nll: nll[:-1], "[8]"),
        (lambda nll: nll[:, None, None], "[8]"),
        (lambda nll: nll.tolist(), "list"),
        (lambda nll: nll[:, None], "one value per example"),
    ],
)
def test_statistics_of_a_wrong_shape_are_named(rows: Any, words: str, tmp_path: Path) -> None:
    class Task(TokensTask):
        def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            scored = super().evaluate(model, batch)
            return {**scored, "nll": rows(scored["nll"])}

    write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    with pytest.raises(TaskError, match="`evaluate` of task `toy`") as caught:
        average(tmp_path / "c", tmp_path / "c", output=tmp_path / "o", task=Task(lambda: nn.Linear(6, 1)))
    assert caught.value.code == "task-failed"
    assert words in caught.value.message


def test_a_missing_statistic_is_named(tmp_path: Path) -> None:
    class Task(TokensTask):
        def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            return {"nll": super().evaluate(model, batch)["nll"]}

    write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    with pytest.raises(TaskError, match="so `tokens` for `perplexity` too, but returns `nll`"):
        average(tmp_path / "c", tmp_path / "c", output=tmp_path / "o", task=Task(lambda: nn.Linear(6, 1)))


def test_check_task_looks_at_statistics_too(tmp_path: Path) -> None:
    class Leaky(SpokenTask):
        def generate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            scored = super().generate(model, batch)
            return {**scored, "right": scored["right"] + len(batch["x"])}

    write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    check_task(SpokenTask(lambda: nn.Linear(6, 1)), tmp_path / "c", tmp_path / "c")
    with pytest.raises(AssertionError, match=r"`generate` of task .*`right` that does not depend on the others"):
        check_task(Leaky(lambda: nn.Linear(6, 1)), tmp_path / "c", tmp_path / "c")


def test_a_task_may_be_another_for_every_folder(tmp_path: Path) -> None:
    class Chameleon(ToyTask):
        def for_checkpoints(self, checkpoints: object) -> TokensTask:
            return TokensTask(self.build)

    checkpoints = write_checkpoints(tmp_path / "c", lambda: nn.Linear(6, 1))
    assert [metric.name for metric in choose_task(checkpoints, Chameleon, {}).metrics] == ["perplexity", "loss"]

    class Lost(ToyTask):
        def for_checkpoints(self, checkpoints: object) -> None:
            return None

    with pytest.raises(TaskError, match="`for_checkpoints` of task `toy` must return a task, but returns None"):
        choose_task(checkpoints, Lost(), {})


def test_a_model_of_halves_is_judged_as_a_gpu_serves_it(tmp_path: Path) -> None:
    """Autocast is the same on a CPU; which models get it on a GPU is a function of their types."""
    checkpoints = write_checkpoints(tmp_path, lambda: nn.Linear(6, 1), count=2)
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    seen: list[torch.dtype] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    task = ToyTask()
    examples = Examples(
        task=guard(task),
        data=task.open_data(tmp_path, checkpoints),
        indices=torch.arange(9),
        device=torch.device("cpu"),
    )
    exact, served = (evaluate(model, examples, SingleProcess(), served_in=each) for each in (None, torch.bfloat16))
    assert set(seen) == {torch.float32, torch.bfloat16}
    assert exact.loss != served.loss
    assert exact.loss == pytest.approx(served.loss, rel=0.05)
    gpu, half = torch.device("cuda"), {"w": torch.bfloat16, "norm": torch.float32}
    assert served_in(half, gpu) is torch.bfloat16
    assert served_in(half, torch.device("cpu")) is None
    assert served_in({"w": torch.float32}, gpu) is None
    assert served_in({"a": torch.float16, "b": torch.bfloat16}, gpu) is None
