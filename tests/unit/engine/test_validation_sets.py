"""Several validation sets: what judges, what is shown, what is refused, and that one set by name is the plain path."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import DataError, EngineError, Outcome, average
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.cache import Evaluations, is_below
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.evaluation.gain import Gain, gain_over
from ladle_engine.evaluation.racing import race
from ladle_engine.pipeline.candidates import Candidate, OnSet, winner_of
from ladle_engine.pipeline.request import Request
from ladle_engine.progress import ProgressEvent, StageStarted, StepDone
from ladle_engine.resume_state import ResumeState, job_key
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.examples import Examples, join
from ladle_engine.tasks.joined import JoinedData, Strata
from ladle_engine.tasks.metrics import ratio
from ladle_engine.training.batch_order import BatchOrder, ExampleOrder
from tests.builders import digits, make_checkpoints, make_val_set, quick_options
from tests.unit.engine.test_race import ACCURACY, LOSS, Indices, TableTask, like_a_run, one_hot
from tests.unit.engine.toy import Interrupted, ToyData, ToyTask, norm_net, plain_net, trainer_for, write_checkpoints

CPU = torch.device("cpu")
RATIO = Metric(name="ratio", higher_is_better=True, of=ratio("hits", "size"), statistics=("hits", "size"))
QUICK: dict[str, Any] = {"methods": ["uniform", "greedy-soup", "twa"], "options": {"twa": {"steps": 6}}}


def make_noisy_set(path: Path, count: int = 300, start: int = 700, noise: float = 0.4) -> Path:
    """The same digits as `make_val_set`, with noise."""
    images, labels = digits()
    part = slice(start, start + count)
    generator = torch.Generator().manual_seed(0)
    noisy = images[part] + noise * torch.randn(images[part].shape, generator=generator)
    np.savez(path, images=noisy.numpy(), labels=labels[part].numpy())
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    make_checkpoints(root / "run")
    make_checkpoints(root / "norm", batch_norm=True)
    make_val_set(root / "clean.npz")
    make_noisy_set(root / "noisy.npz")
    make_val_set(root / "other.npz", count=200, start=1100)
    return root


def sets_of(root: Path, *names: str) -> dict[str, Path]:
    return {name: root / f"{name}.npz" for name in names}


def report_of(outcome: Outcome) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((outcome.folder / "report.json").read_text())
    return report


# One set --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["run", "norm"])
def test_one_set_by_name_gives_what_the_plain_path_gives_bit_for_bit(root: Path, tmp_path: Path, run: str) -> None:
    options = {"methods": ["uniform", "last-k", "greedy-soup", "twa", "pca", "psgd"], "options": quick_options(4)}
    options["options"] = {name: options["options"][name] for name in ("twa", "pca", "psgd")}  # type: ignore[call-overload, index]
    plain, named = (
        average(root / run, sets, output=tmp_path / name, method_options=options, judge_by=judge_by)
        for name, sets, judge_by in (
            ("plain", root / "clean.npz", "first"),
            ("named", {"clean": root / "clean.npz"}, "mean"),
        )
    )
    assert [dataclasses.replace(score, sets={}) for score in named.candidates] == list(plain.candidates)
    assert not any(score.sets for score in plain.candidates)
    for score in named.candidates:
        on_set = score.sets["clean"]
        assert (on_set.select, on_set.gain, on_set.gain_low, on_set.gain_high) == (
            score.select, score.gain, score.gain_low, score.gain_high,
        )  # fmt: skip
    coefficients = [
        json.loads((each.folder / "coefficients.json").read_text())["candidates"] for each in (plain, named)
    ]
    assert coefficients[0] == coefficients[1]
    curves = [[row["curve"] for row in report_of(each)["candidates"]] for each in (plain, named)]
    assert curves[0] == curves[1]
    assert report_of(plain)["validation_sets"] == {}


# What judges ----------------------------------------------------------------------------------------------------------


def test_the_first_set_judges_and_the_others_are_shown_and_change_nothing(root: Path, tmp_path: Path) -> None:
    alone = average(root / "run", root / "clean.npz", output=tmp_path / "alone", method_options=QUICK)
    both = average(root / "run", sets_of(root, "clean", "noisy"), output=tmp_path / "both", method_options=QUICK)
    assert [dataclasses.replace(score, sets={}) for score in both.candidates] == list(alone.candidates)
    for score in both.candidates:
        assert list(score.sets) == ["clean", "noisy"]
        assert score.sets["clean"].gain == score.gain
        assert score.sets["noisy"].select["accuracy"] < score.select["accuracy"]
    report = report_of(both)
    assert report["validation_sets"] == {
        "clean": {"weight": 1.0, "select": 150}, "noisy": {"weight": 0.0, "select": 150},
    }  # fmt: skip
    assert report["inputs"]["data"].keys() == {"val_set.clean", "val_set.noisy"}
    assert all("sha256" in each for each in report["inputs"]["data"].values())
    assert report["settings"]["judge_by"] == {"clean": 1.0}
    row = report["candidates"][1]
    assert row["sets"]["noisy"]["gain_low"] < row["sets"]["noisy"]["gain"] < row["sets"]["noisy"]["gain_high"]
    card = (both.folder / "README.md").read_text()
    assert "## Validation sets" in card
    assert "`clean` (1)" in card
    assert "| uniform (4) | noisy | 150 |" in card


@pytest.mark.parametrize(
    ("judge_by", "weights"),
    [
        ("mean", {"clean": 0.5, "other": 0.5}),
        ({"other": 3, "clean": 1}, {"clean": 0.25, "other": 0.75}),
        ({"other": 2}, {"other": 1.0}),
    ],
)
def test_a_weighted_mean_of_the_sets_scores_judges(
    root: Path, tmp_path: Path, judge_by: Any, weights: dict[str, float]
) -> None:
    outcome = average(
        root / "run", sets_of(root, "clean", "other"), output=tmp_path / "out", method_options=QUICK, judge_by=judge_by
    )
    for score in outcome.candidates:
        for metric, value in score.select.items():
            mean = sum(weight * score.sets[name].select[metric] for name, weight in weights.items())
            assert value == pytest.approx(mean, abs=1e-12)
        assert score.gain == pytest.approx(sum(weight * score.sets[name].gain for name, weight in weights.items()))
    (won,) = (score for score in outcome.candidates if score.method == outcome.method)
    assert outcome.gain == won.gain >= 0
    for score in outcome.candidates:
        assert not (score.gain >= won.gain and score.select["loss"] < won.select["loss"]), "or it would have won"
    shown = report_of(outcome)["validation_sets"]
    assert {name: each["weight"] for name, each in shown.items() if each["weight"]} == pytest.approx(weights)


def of_sets(values: Sequence[Sequence[float]], weights: Sequence[float], metric: Metric = ACCURACY) -> Evaluation:
    strata = Strata(weights=tuple(weights), of=torch.tensor([i for i, rows in enumerate(values) for _ in rows]))
    flat = torch.tensor([value for rows in values for value in rows], dtype=torch.float64)
    return Evaluation(metrics=(metric,), values={metric.name: flat}, strata=strata)


def test_the_interval_of_a_mean_over_sets_adds_variances_and_pairs_versions_of_one_set() -> None:
    best = of_sets([[0, 0, 0, 0], [0, 0]], [0.5, 0.5])
    gain = gain_over(of_sets([[0, 1, 0, 0], [0, 1]], [0.5, 0.5]), best, ACCURACY, seed=0)
    assert gain.value == 0.5 * 0.25 + 0.5 * 0.5
    # Standard errors of the halves: 0.5 * 0.5 / 2 and 0.5 * sqrt(0.5) / sqrt(2).
    assert math.isclose(gain.high - gain.value, 1.959963985 * math.hypot(0.125, 0.25), rel_tol=1e-9)
    twice = gain_over(
        of_sets([[0, 1, 0, 0], [0, 1, 0, 0]], [0.5, 0.5]), of_sets([[0] * 4, [0] * 4], [0.5, 0.5]), ACCURACY, seed=0
    )
    once = gain_over(of_sets([[0, 1, 0, 0]], [1.0]), of_sets([[0] * 4], [1.0]), ACCURACY, seed=0)
    assert twice == once, "the same examples again say nothing new"


@pytest.mark.parametrize(("sizes", "correlation"), [((150, 150), 0.0), ((150, 150), 0.8), ((150, 90), 0.0)])
def test_the_interval_of_a_mean_over_sets_holds_the_truth_about_as_often_as_it_says(
    sizes: tuple[int, int], correlation: float
) -> None:
    """Also for two versions of the same examples, whose differences are correlated, as long as they are of one size."""
    generator = torch.Generator().manual_seed(0)
    held, runs = 0, 400
    for _ in range(runs):
        one, noise = torch.randn(2, 150, generator=generator, dtype=torch.float64)
        other = (correlation * one + (1 - correlation**2) ** 0.5 * noise)[: sizes[1]]
        bar = of_sets([[0.0] * size for size in sizes], [0.5, 0.5])
        known = dataclasses.replace(bar, values={"accuracy": torch.cat([one, other])})
        gain = gain_over(known, bar, ACCURACY, seed=0)
        held += gain.low <= 0 <= gain.high
    assert 0.92 <= held / runs <= 0.98


def test_a_metric_that_is_a_function_is_resampled_set_by_set() -> None:
    generator = torch.Generator().manual_seed(0)

    def evaluation(of: Tensor | None, shift: float) -> Evaluation:
        hits = (torch.rand(600, generator=generator) < 0.5 + shift).double()
        strata = None if of is None else Strata(weights=(0.5, 0.5), of=of)
        return Evaluation(
            metrics=(RATIO, ACCURACY), values={"hits": hits, "size": torch.ones(600).double(), "accuracy": hits},
            strata=strata,
        )  # fmt: skip

    of = torch.tensor([0] * 200 + [1] * 400)
    one, other = evaluation(of, 0.2), evaluation(of, 0.0)
    by_samples, by_z = (gain_over(one, other, metric, seed=0) for metric in (RATIO, ACCURACY))
    assert by_samples.value == pytest.approx(by_z.value)
    width = by_z.high - by_z.low
    assert abs(by_samples.low - by_z.low) < 0.05 * width
    assert abs(by_samples.high - by_z.high) < 0.05 * width


# Racing ---------------------------------------------------------------------------------------------------------------


def joined_evaluations(task: TableTask, sizes: Sequence[int], weights: Sequence[float]) -> Evaluations:
    """Of one table, whose rows are those of the sets one after the other."""
    model = nn.Module()

    def load_weights(
        coefficients: Coefficients, recomputed: Mapping[str, Tensor] | None, exactly: bool
    ) -> Mapping[str, Tensor]:
        model.alpha_K = coefficients.alpha_KG[:, 0]  # type: ignore[assignment]
        return {}

    class Rows(Indices):
        """Names of rows of the table, from the first of its own on."""

        def __init__(self, start: int, count: int) -> None:
            super().__init__(count)
            self.start = start

        def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
            return {"index": self.start + indices}

    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    names = [f"set-{number}" for number in range(len(sizes))]
    data = {name: Rows(start, count) for name, start, count in zip(names, starts, sizes, strict=True)}
    total = sum(weights)
    joined = JoinedData(data, {name: weight / total for name, weight in zip(names, weights, strict=True)})
    parts = {
        name: Examples(task=task, data=rows, indices=torch.arange(len(rows)), device=CPU) for name, rows in data.items()
    }
    return Evaluations(
        {"select": join(parts, joined)}, model=model, load_weights=load_weights, approximate=lambda _: None,
        collectives=SingleProcess(), state=ResumeState(None, ""), seed=0,
    )  # fmt: skip


def best_over_sets(
    table: Mapping[str, Tensor], sizes: Sequence[int], weights: Sequence[float], metric: Metric
) -> list[int]:
    """All that tie: sums of floats are not the same in another order."""
    parts = {name: values.split(list(sizes)) for name, values in table.items()}
    means = {
        name: sum(w * part.mean(dim=0) for w, part in zip(weights, each, strict=True)) for name, each in parts.items()
    }
    sign = 1.0 if metric.higher_is_better else -1.0
    scores = torch.as_tensor(sign * means[metric.name])
    best = (scores >= scores.max() - 1e-9).nonzero().view(-1)
    losses = torch.as_tensor(means["loss"])[best]
    return best[losses <= losses.min() + 1e-9].tolist()


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    K=st.integers(2, 12),
    sizes=st.lists(st.integers(2, 2500), min_size=2, max_size=4),
    data=st.data(),
    spread=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    metric=st.sampled_from([ACCURACY, LOSS]),
)
def test_the_race_over_several_sets_is_won_by_the_one_that_is_best_on_everything(
    seed: int, K: int, sizes: list[int], data: st.DataObject, spread: float, metric: Metric
) -> None:
    weights = data.draw(st.lists(st.sampled_from([0.1, 1.0, 7.0]), min_size=len(sizes), max_size=len(sizes)))
    # Which model is good depends on the set.
    runs = [like_a_run(seed + number, K, size, spread, 0.8) for number, size in enumerate(sizes)]
    table = {name: torch.cat([run[name] for run in runs]) for name in ("accuracy", "loss")}
    task = TableTask(table)
    winner = race(joined_evaluations(task, sizes, weights), [one_hot(i, K) for i in range(K)], "select", metric)
    assert winner in best_over_sets(table, sizes, [weight / sum(weights) for weight in weights], metric)
    assert len(task.seen) == len(set(task.seen)), "no model sees an example twice"


def test_models_whose_scores_are_spread_over_several_sets_take_a_fraction_of_all_evaluations() -> None:
    sizes, K = [4000, 6000], 40
    runs = [like_a_run(1, K, size, spread=2.0, agreement=0.9) for size in sizes]
    table = {name: torch.cat([run[name] for run in runs]) for name in ("accuracy", "loss")}
    task = TableTask(table)
    race(joined_evaluations(task, sizes, [1, 1]), [one_hot(i, K) for i in range(K)], "select", ACCURACY)
    assert len(task.seen) < 0.6 * K * sum(sizes)


def test_nobody_is_given_up_early_where_the_mean_of_functions_judges() -> None:
    """Perplexity falls with the loss of each set, but the mean of two perplexities does not fall with the mean loss."""
    rising = dataclasses.replace(RATIO, rises_with="hits", low=0.0, high=1.0)

    class Ratios(TableTask):
        metrics = (rising, LOSS)

    sizes, K = [2000, 2000], 8
    run = like_a_run(1, K, sum(sizes), spread=2.0, agreement=0.9)
    table = {"hits": run["accuracy"], "size": torch.ones_like(run["accuracy"]), "loss": run["loss"]}
    contenders = [one_hot(i, K) for i in range(K)]
    over_sets, over_one = Ratios(table), Ratios(table)
    race(joined_evaluations(over_sets, sizes, [1, 1]), contenders, "select", rising)
    race(joined_evaluations(over_one, [4000], [1]), contenders, "select", rising)
    assert len(over_sets.seen) == K * sum(sizes)
    assert len(over_one.seen) < len(over_sets.seen)


def test_a_bar_over_several_sets_counts_what_is_missing_of_each() -> None:
    bar = of_sets([[1, 1, 1, 1], [0, 0]], [0.5, 0.5])
    assert not is_below(of_sets([[0, 0], []], [0.5, 0.5]), bar, ACCURACY), "the other set may be all right"
    assert not is_below(of_sets([[0, 0, 0, 0], []], [0.5, 0.5]), bar, ACCURACY), "that would tie"
    assert is_below(of_sets([[0, 0, 0, 0], [0]], [0.5, 0.5]), bar, ACCURACY)


# Training -------------------------------------------------------------------------------------------------------------


def joined_toy(sizes: Sequence[int], weights: Sequence[float], batch_size: int = 8) -> Examples:
    task = ToyTask(plain_net, batch_size=batch_size)
    data = {f"set-{number}": ToyData(count, seed=number) for number, count in enumerate(sizes)}
    parts = {
        name: Examples(task=task, data=each, indices=torch.arange(1, len(each)), device=CPU)
        for name, each in data.items()
    }
    return join(parts, JoinedData(data, dict(zip(data, weights, strict=True))))


def test_the_loss_and_its_gradient_are_the_weighted_mean_of_those_of_the_sets(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net, count=3)
    trainer = trainer_for(checkpoints, plain_net, "model")
    examples = joined_toy([21, 60], [0.8, 0.2])
    weights_KG = torch.full((3, 1), 1 / 3, dtype=torch.float64)

    def measured(of: Examples, indices: Tensor) -> tuple[float, Tensor]:
        return dataclasses.replace(trainer, examples=of).loss_and_gradient(weights_KG, indices)

    loss, gradient_KG = measured(examples, examples.indices)
    parts = [measured(part, part.indices) for part in examples.sets]
    assert loss == pytest.approx(0.8 * parts[0][0] + 0.2 * parts[1][0], rel=1e-6)
    torch.testing.assert_close(gradient_KG, 0.8 * parts[0][1] + 0.2 * parts[1][1], rtol=1e-5, atol=1e-7)


def test_every_step_sees_some_of_each_set_in_the_order_of_the_seed() -> None:
    examples = joined_toy([21, 101], [0.75, 0.25])
    order = ExampleOrder(examples, seed=3)
    first, second = BatchOrder(20, 6, seed=3), BatchOrder(100, 2, seed=3)
    for step in (0, 1, 7, 60):
        expected = torch.cat([first.batch(step), 20 + second.batch(step)])
        assert torch.equal(order.batch(step), expected)
    assert order.per_pass == 50
    one_set = joined_toy([21], [1.0]).sets[0]
    assert torch.equal(ExampleOrder(one_set, seed=3).batch(4), BatchOrder(20, 8, seed=3).batch(4))


@pytest.mark.parametrize(
    ("sizes", "weights", "count"), [([101], [1.0], 100), ([51, 51], [0.5, 0.5], 100), ([51, 51], [0.9, 0.1], 61)]
)
def test_sets_that_hardly_count_leave_as_much_to_chance_as_fewer_examples(
    sizes: list[int], weights: list[float], count: int
) -> None:
    assert joined_toy(sizes, weights).effective_count == count


def test_a_sample_of_several_sets_has_them_as_their_weights_say() -> None:
    drawn = joined_toy([101, 401], [0.5, 0.5]).sample(1000)
    assert [len(part) for part in drawn.sets] == [100, 100]
    assert [len(part) for part in joined_toy([101, 401], [0.25, 0.75]).sample(80).sets] == [20, 60]


class Ragged(ToyTask):
    """The examples of each set have as many columns as its name says, of which the model sees six."""

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> ToyData:
        data = ToyData(self.count, seed=int(path.name))
        data.x = torch.cat([data.x, torch.zeros(len(data), int(path.name) - 6)], dim=1)
        return data

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return super().loss(model, {"x": batch["x"][:, :6], "y": batch["y"]})

    def evaluate(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return super().evaluate(model, {"x": batch["x"][:, :6], "y": batch["y"]})


def run_ragged(tmp_path: Path, net: Any) -> Outcome:
    write_checkpoints(tmp_path / "run", net, count=3)
    for name in ("6", "9"):
        (tmp_path / name).mkdir()
    return average(
        tmp_path / "run", {"short": tmp_path / "6", "long": tmp_path / "9"}, output=tmp_path / "out",
        task=Ragged(net), judge_by="mean", method_options=QUICK,
    )  # fmt: skip


def test_sets_whose_examples_have_other_shapes_train_and_judge_together(tmp_path: Path) -> None:
    assert len(run_ragged(tmp_path, plain_net).candidates) == 4


def test_batch_norm_needs_examples_of_one_shape_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`short` and `long` have not. Let one set judge with `judge_by=`"):
        run_ragged(tmp_path, norm_net)


def test_batch_norm_works_with_several_sets(root: Path, tmp_path: Path) -> None:
    outcome = average(
        root / "norm", sets_of(root, "clean", "noisy"), output=tmp_path / "out", judge_by="mean", method_options=QUICK
    )
    assert all(math.isfinite(score.select["loss"]) for score in outcome.candidates)


# No set worse ---------------------------------------------------------------------------------------------------------


def candidate(method: str, score: float, **gains: tuple[float, float]) -> Candidate:
    known = of_sets([[score, score]], [1.0], ACCURACY)
    known = dataclasses.replace(
        known, values={**known.values, "loss": known.values["accuracy"]}, metrics=(ACCURACY, LOSS)
    )
    on_sets = {
        name: OnSet(known=known, gain=Gain(value=(low + high) / 2, low=low, high=high))
        for name, (low, high) in gains.items()
    }
    judged: Any = SimpleNamespace(select=known)
    choice: Any = None
    gain = Gain(value=0.0, low=0.0, high=0.0)
    return Candidate(method=method, choice=choice, judged=judged, gain=gain, on_sets=on_sets, seconds=0.0)


def chosen(candidates: list[Candidate], no_set_worse: bool) -> tuple[str, list[str]]:
    told: list[Any] = []
    context: Any = SimpleNamespace(metric=ACCURACY, seed=0, on_event=told.append)
    winner = winner_of(candidates, context, no_set_worse=no_set_worse)
    return winner.method, [event.message for event in told]


BEST = candidate("best", 0.5, clean=(0.0, 0.0), noisy=(0.0, 0.0))


def test_a_candidate_that_is_worse_on_some_set_is_not_chosen_if_that_is_asked_for() -> None:
    tempting = candidate("twa", 0.9, clean=(0.3, 0.5), noisy=(-0.3, -0.1))
    fine = candidate("uniform", 0.6, clean=(0.0, 0.2), noisy=(-0.1, 0.1))
    method, told = chosen([BEST, fine, tempting], no_set_worse=True)
    assert method == "uniform"
    (message,) = told
    assert "Method `twa` was not chosen" in message
    assert "`noisy` (-0.2000)" in message
    assert "`clean`" not in message
    method, (message,) = chosen([BEST, fine, tempting], no_set_worse=False)
    assert method == "twa"
    assert "`no_set_worse=`" in message
    assert chosen([BEST, fine], no_set_worse=True) == ("uniform", []), "an interval around zero says nothing"


def test_the_best_checkpoint_always_qualifies() -> None:
    tempting = candidate("twa", 0.9, clean=(0.3, 0.5), noisy=(-0.3, -0.1))
    method, told = chosen([BEST, tempting], no_set_worse=True)
    assert method == "best"
    assert len(told) == 1


class Anchored(ToyTask):
    """The targets of every set but `one` are what a checkpoint gives: no other model is as good there."""

    def __init__(self, anchor: nn.Module) -> None:
        super().__init__(plain_net)
        self._anchor = anchor

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> ToyData:
        data = ToyData(400)
        if path.name != "one":
            with torch.no_grad():
                data.y = self._anchor(data.x)
        return data


def test_a_job_writes_what_is_worse_on_no_set_and_says_what_it_lost(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", plain_net, count=4)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    anchor = plain_net()
    asked: dict[str, Any] = {"task": Anchored(anchor), "method": "twa", "method_options": {"steps": 60}}
    best = average(tmp_path / "run", tmp_path / "one", output=tmp_path / "alone", **asked).best_checkpoint
    anchor.load_state_dict(load_file(tmp_path / "run" / best))
    sets = {name: tmp_path / name for name in ("one", "two")}
    free = average(tmp_path / "run", sets, output=tmp_path / "free", **asked)
    assert free.method == "twa"
    assert free.candidates[1].sets["two"].gain_high < 0
    assert any("`two`" in warning and "`no_set_worse=`" in warning for warning in free.warnings)
    held = average(tmp_path / "run", sets, output=tmp_path / "held", no_set_worse=True, **asked)
    assert held.method == "best"
    assert any("Method `twa` was not chosen" in warning for warning in held.warnings)
    report = report_of(held)
    assert [row["worse_on"] for row in report["candidates"]] == [[], ["two"]]
    assert report["settings"]["no_set_worse"] is True


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"val_set": {}}, "`val_set` must have from 1 to 100 sets, but has 0."),
        ({"val_set": {f"s{i}": "x" for i in range(101)}}, "`val_set` must have from 1 to 100 sets, but has 101."),
        ({"val_set": {"a b": "x"}}, "that begin with a letter or a digit, at most 100 of them, but has 'a b'."),
        ({"val_set": {"": "x"}}, "but has ''."),
        ({"val_set": {3: "x"}}, "but has 3."),
        ({"val_set": {"a": ["x"]}}, "`val_set` must have a path for each name, but has ['x'] for `a`."),
        ({"judge_by": "second"}, "`judge_by` must be `first`, `mean`, or a mapping"),
        ({"judge_by": {}}, "`judge_by` must be `first`, `mean`, or a mapping"),
        ({"judge_by": {"a": 0}}, "to weights from 1e-06 to 1e+06, but is {'a': 0}."),
        ({"judge_by": {"a": float("nan")}}, "to weights from 1e-06 to 1e+06"),
        ({"judge_by": {"a": True}}, "to weights from 1e-06 to 1e+06"),
        ({"judge_by": {"b": 1}}, "`judge_by` must name sets of `val_set`, but names 'b'. There are `a`."),
        ({"val_set": "x", "judge_by": {"a": 1}}, "There are none: give `val_set` as a mapping."),
        ({"val_set": "x", "judge_by": {"": 1}}, "There are none: give `val_set` as a mapping."),
        ({"no_set_worse": 1}, "`no_set_worse` must be True or False, but is 1."),
    ],
    ids=str,
)  # fmt: skip
def test_sets_and_weights_that_mean_nothing_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"`(val_set|judge_by|no_set_worse)`") as caught:
        Request(**{"ckpt_dir": "c", "val_set": {"a": "x"}, "output": "o", **arguments})
    assert words in str(caught.value)


def test_data_that_would_count_twice_or_train_and_judge_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked.npz").symlink_to(root / "noisy.npz")
    with pytest.raises(DataError, match="other data for each name, but `noisy` and `again` are both"):
        average(
            root / "run", {**sets_of(root, "clean", "noisy"), "again": tmp_path / "linked.npz"}, output=tmp_path / "out"
        )
    with pytest.raises(DataError, match=r"`train_set=` must be other data than set `noisy` of `val_set=`"):
        average(
            root / "run", sets_of(root, "clean", "noisy"), output=tmp_path / "out", train_set=tmp_path / "linked.npz"
        )


def test_a_set_with_too_few_examples_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    make_val_set(tmp_path / "few.npz", count=3)
    with pytest.raises(DataError, match=r"0\.5 of 3 examples of the set `few` is 2 to select and 1 to fit") as caught:
        average(root / "run", {**sets_of(root, "clean"), "few": tmp_path / "few.npz"}, output=tmp_path / "out")
    assert caught.value.code == "too-little-data"


def test_a_set_that_is_not_there_is_refused_by_its_path(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.npz"):
        average(root / "run", {**sets_of(root, "clean"), "gone": tmp_path / "gone.npz"}, output=tmp_path / "out")


def test_versions_of_one_set_are_cut_alike_so_that_no_example_trains_and_judges(root: Path, tmp_path: Path) -> None:
    seen: dict[str, set[int]] = {"loss": set(), "evaluate": set()}

    class Watching(ToyTask):
        def open_data(self, path: Path, checkpoints: CheckpointSet) -> ToyData:
            data = ToyData(100)
            data.y = data.y + 0.01 * (path.name == "noisy")
            return data

        def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
            seen["loss"] |= {hash(tuple(row)) for row in batch["x"].tolist()}
            return super().loss(model, batch)

    write_checkpoints(tmp_path / "run", plain_net, count=3)
    for name in ("clean", "noisy"):
        (tmp_path / name).mkdir()
    average(
        tmp_path / "run", {"clean": tmp_path / "clean", "noisy": tmp_path / "noisy"}, output=tmp_path / "out",
        task=Watching(plain_net), judge_by="mean", method="twa", method_options={"steps": 40},
    )  # fmt: skip
    assert 0 < len(seen["loss"]) <= 50, "the fit halves are the same examples"


# Files and states -----------------------------------------------------------------------------------------------------


def test_a_set_that_changes_while_the_job_runs_ends_it(root: Path, tmp_path: Path) -> None:
    make_noisy_set(tmp_path / "noisy.npz")

    def change(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted) and event.stage == "select":
            (tmp_path / "noisy.npz").write_bytes(b"other")

    with pytest.raises(EngineError, match=r"noisy\.npz") as caught:
        average(
            root / "run", {**sets_of(root, "clean"), "noisy": tmp_path / "noisy.npz"}, output=tmp_path / "out",
            method_options=QUICK, progress=change,
        )  # fmt: skip
    assert caught.value.code == "inputs-changed"
    assert not (tmp_path / "out").exists()


def test_a_state_belongs_to_the_order_and_the_names_of_the_sets() -> None:
    def key(**more: Any) -> str:
        request = Request(
            **{"ckpt_dir": "c", "val_set": {"a": "x", "b": "y"}, "output": "o", "judge_by": "mean", **more}
        )
        return job_key(request.deciding_settings(ToyTask(plain_net), with_paths=False))

    others = [
        {"val_set": {"b": "y", "a": "x"}}, {"val_set": {"a": "x", "c": "y"}}, {"judge_by": "first"},
        {"no_set_worse": True},
    ]  # fmt: skip
    assert len({key(), *(key(**each) for each in others)}) == 5
    assert key(judge_by={"b": 2, "a": 2}) == key(), "weights are shares"
    assert key(val_set={"a": "elsewhere", "b": "there"}) == key(), "ranks may see the files at other places"


def test_an_interrupted_job_goes_on_with_the_same_numbers(root: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"judge_by": "mean", "method_options": QUICK}
    sets = sets_of(root, "clean", "other")
    whole = average(root / "run", sets, output=tmp_path / "whole", **asked)

    def die(event: ProgressEvent) -> None:
        if isinstance(event, StepDone) and event.method == "twa":
            raise Interrupted

    with pytest.raises(Interrupted):
        average(root / "run", sets, output=tmp_path / "again", state_dir=tmp_path / "state", progress=die, **asked)
    again = average(root / "run", sets, output=tmp_path / "again", state_dir=tmp_path / "state", **asked)
    assert again.candidates == whole.candidates
