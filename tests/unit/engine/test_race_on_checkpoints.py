"""Races between real checkpoints, within whole jobs: their winners are those of full evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import average
from ladle_engine.coefficients import Coefficients
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.methods import fixed
from ladle_engine.methods.greedy import mean_of
from ladle_engine.methods.profile import Family, Member, ProfileOptions
from ladle_engine.pipeline import candidates
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.image_classification import ImageClassification
from tests.builders import make_checkpoints, make_val_set
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight checkpoints of a small CNN, some of them spoilt by noise, and all the digits to judge them on."""
    root = tmp_path_factory.mktemp("uneven")
    folder = make_checkpoints(root / "checkpoints", count=8)
    generator = torch.Generator().manual_seed(0)
    for number, noise in ((1, 0.5), (2, 0.2), (4, 0.1), (6, 0.05)):
        path = folder / f"epoch-{number}.safetensors"
        state = load_file(path)
        save_file(
            {name: tensor + noise * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()},
            path,
        )
    make_val_set(root / "val.npz", count=1797, start=0)
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that were evaluated."""
    sizes: list[int] = []
    score = ImageClassification.evaluate

    def counting(task: ImageClassification, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        sizes.append(len(batch["labels"]))
        return score(task, model, batch)

    monkeypatch.setattr(ImageClassification, "evaluate", counting)
    return sizes


def full(context: Any, coefficients: Coefficients, split: str) -> tuple[float, float]:
    """The rank key of a model, evaluated afresh on everything."""
    context.load_weights(coefficients)
    examples = context.evaluations._splits[split]
    return evaluate(context.binding.model, examples, context.collectives).rank_key(context.metric)


def plain_greedy(context: Any) -> Coefficients:
    """As published: sort by held-out score, add, keep what is no worse. The order is by the other half of that data."""
    K = len(context.checkpoints.names)
    scores = [full(context, context.one_checkpoint(i), "select") for i in range(K)]
    order = sorted(range(K), key=lambda i: scores[i], reverse=True)
    soup, best = [order[0]], full(context, context.one_checkpoint(order[0]), "fit")[0]
    for i in order[1:]:
        score = full(context, mean_of(context, [*soup, i]), "fit")[0]
        if score >= best:
            soup, best = [*soup, i], score
    return mean_of(context, soup)


def plain_best(contenders: Callable[[Any], list[Coefficients]]) -> Callable[[Any], Coefficients]:
    def choose(context: Any) -> Coefficients:
        return max(contenders(context), key=lambda coefficients: full(context, coefficients, "select"))

    return choose


def singles(context: Any) -> list[Coefficients]:
    return [context.one_checkpoint(i) for i in range(8)]


def plain_second(context: Any) -> Coefficients:
    return sorted(singles(context), key=lambda coefficients: full(context, coefficients, "select"))[-2]


def plain_profile(context: Any) -> Coefficients:
    """The best of the first windows, and then of it and what is around it."""
    family = Family(context.checkpoints, ProfileOptions())

    def score(member: Member) -> tuple[float, float]:
        return full(context, context.coefficients(family.alpha(member)), "select")

    first = max(family.first(), key=score)
    found: Coefficients = context.coefficients(family.alpha(max([first, *family.around(first)], key=score)))
    return found


PLAIN: dict[str, Callable[[Any], Coefficients]] = {
    "best": plain_best(singles),
    "second-best": plain_second,
    "last-k": plain_best(lambda context: [fixed.last_k(context, k) for k in range(2, 9)]),
    "ema": plain_best(lambda context: [fixed.ema(context, decay) for decay in fixed.decays(8)]),
    "profile": plain_profile,
    "greedy-soup": plain_greedy,
}


NEARLY = 0.02
"""Of the metric's value: how much a neighbour of the best row may be worse."""


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "most"), [("accuracy", 0.8), ("loss", 1.0)])
def test_every_method_chooses_as_well_as_full_evaluation_from_fewer_examples(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], metric: str, most: float
) -> None:
    choose = candidates.run_once
    spent: dict[str, tuple[int, int]] = {}

    def comparing(context: Any, method: str) -> Any:
        before = sum(counted)
        choice = choose(context, method)
        cheap = sum(counted) - before
        expected = PLAIN[method](context)
        spent[method] = (cheap, sum(counted) - before - cheap)
        if method in ("best", "second-best"):
            assert torch.equal(choice.coefficients.alpha_KG, expected.alpha_KG), method
        else:
            found, wanted = (full(context, each, "select")[0] for each in (choice.coefficients, expected))
            assert found >= wanted - abs(wanted) * NEARLY, method
        return choice

    monkeypatch.setattr(candidates, "run_once", comparing)
    average(
        uneven / "checkpoints", uneven / "val.npz", output=tmp_path / "out", metric=metric,
        method_options={"methods": list(PLAIN)}, task_options={"batch_size": 16},
    )  # fmt: skip
    assert set(spent) == set(PLAIN)
    for method, (cheap, plain) in spent.items():
        assert cheap < plain, (method, spent)
    assert spent["best"][0] < most * spent["best"][1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    examples = [row["select"]["examples"] for row in report["checkpoints"]]
    if metric == "accuracy":
        assert min(examples) < report["splits"]["select"], "some were given up, and the report says so"
    assert max(examples) == report["splits"]["select"]


def test_a_run_of_one_method_evaluates_the_checkpoints_on_the_select_split_alone(uneven: Path, tmp_path: Path) -> None:
    outcome = average(
        uneven / "checkpoints", uneven / "val.npz", output=tmp_path / "out", method="uniform",
        task_options={"batch_size": 16},
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    on_fit = {row["name"] for row in report["checkpoints"] if row["fit"] is not None}
    assert on_fit == {outcome.best_checkpoint}, "which was judged"


def test_a_finished_state_evaluates_nothing_again(uneven: Path, tmp_path: Path, counted: list[int]) -> None:
    for name in ("one", "two"):
        counted.clear()
        average(
            uneven / "checkpoints", uneven / "val.npz", output=tmp_path / name, state_dir=tmp_path / "state",
            method_options={"methods": list(PLAIN)},
        )  # fmt: skip
        assert bool(counted[1:]) == (name == "one"), "but for the look at the first batch"
    files = {path.name for path in (tmp_path / "state").rglob("*.pt")}
    assert files == {"evaluations.pt", "intervals.pt", *(f"choice-{method}.pt" for method in PLAIN)}, (
        "none per checkpoint"
    )


class CountingTask(ToyTask):
    """Notes how many examples it scores."""

    def __init__(self, count: int) -> None:
        super().__init__(plain_net, count=count, batch_size=64)
        self.scored = 0

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        self.scored += len(batch["x"])
        return super().evaluate(model, batch)


def test_by_the_loss_contenders_are_given_up_early_and_the_winner_is_full_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight checkpoints: four close to each other, and four that are clearly worse."""
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=8, spread=0.02)
    generator = torch.Generator().manual_seed(1)
    for number in (0, 2, 5, 7):
        path = tmp_path / "checkpoints" / f"step-{number}.safetensors"
        state = load_file(path)
        save_file(
            {name: tensor + 0.7 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()},
            path,
        )
    task = CountingTask(6000)
    choose = candidates.run_once
    spent: dict[str, tuple[int, int]] = {}

    def comparing(context: Any, method: str) -> Any:
        task.scored = 0
        choice = choose(context, method)
        cheap, task.scored = task.scored, 0
        expected = PLAIN[method](context)
        spent[method] = (cheap, task.scored)
        assert torch.equal(choice.coefficients.alpha_KG, expected.alpha_KG), method
        return choice

    monkeypatch.setattr(candidates, "run_once", comparing)
    outcome = average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=task, metric="loss",
        method_options={"methods": list(PLAIN)},
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["splits"]["select"] == 3000
    examples = {row["name"]: row["select"]["examples"] for row in report["checkpoints"]}
    assert all(examples[f"step-{number}.safetensors"] == 1024 for number in (0, 2, 5, 7)), "the first chance for a loss"
    assert list(examples.values()).count(3000) >= 2, "the last ones ran to the end"
    assert set(spent) == set(PLAIN)
    assert spent["best"][0] < 0.75 * spent["best"][1], spent
    losses = [score.select["loss"] for score in outcome.candidates]
    assert min(losses) == next(score for score in outcome.candidates if score.method == outcome.method).select["loss"]


def test_the_best_checkpoint_is_judged_by_what_its_race_has_evaluated(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]
) -> None:
    choose = candidates.run_once
    at: dict[str, tuple[int, int]] = {}

    def noting(context: Any, method: str) -> Any:
        begun = sum(counted)
        choice = choose(context, method)
        at[method] = (begun, sum(counted))
        assert context.weights.holds_singles, "or a race has nothing but the files to place a checkpoint from"
        shown.append(context.evaluations.rounds["fit"][0])
        return choice

    shown: list[int] = []
    monkeypatch.setattr(candidates, "run_once", noting)
    average(
        uneven / "checkpoints", uneven / "val.npz", output=tmp_path / "out",
        method_options={"methods": ["best", "uniform"]}, task_options={"batch_size": 16},
    )  # fmt: skip
    assert at["uniform"][0] - at["best"][1] == shown[0], "only the first round of the fit split, which is shown"
