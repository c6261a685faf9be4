"""The method `search`: CMA-ES over coefficients, by any metric, within a budget."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cmaes import CMA
from safetensors.torch import load_file
from torch import Tensor

from ladle_engine import MethodError, Outcome, average
from ladle_engine.methods.search_spaces import OfProfile
from ladle_engine.profiles import POWER, Profile, weights
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.examples import split
from tests.unit.engine.searching import PointTask, SignTask, Targets, write_points
from tests.unit.engine.toy import Interrupted, ToyTask, plain_net, write_checkpoints


def run(folder: Path, name: str, task: ToyTask, options: dict[str, Any], **more: Any) -> Outcome:
    return average(
        folder / "checkpoints",
        folder / "checkpoints",
        output=folder / name,
        task=task,
        method="search",
        method_options=options,
        **more,
    )


def saved(folder: Path, name: str) -> tuple[Tensor, dict[str, Any]]:
    """float64 K x G, and the report."""
    found = json.loads((folder / name / "coefficients.json").read_text())["candidates"]["search"]
    return torch.tensor(found["alpha"], dtype=torch.float64), json.loads((folder / name / "report.json").read_text())


def fit_of(count: int, seed: int = 0) -> Tensor:
    """float64: the fit split of `Targets`."""
    fit, _ = split(count, 0.5, seed)
    return Targets(count).x[fit].double()


def loss_of(point_D: Tensor, targets_ND: Tensor) -> float:
    return float((point_D - targets_ND).square().sum(dim=1).mean())


def test_it_finds_the_optimum_of_a_quadratic_loss_in_the_span_of_the_checkpoints(tmp_path: Path) -> None:
    points_KD = write_points(tmp_path / "checkpoints")
    run(tmp_path, "out", PointTask(), {"budget": 600.0, "share": 1.0}, seed=0)
    alpha_KG, report = saved(tmp_path, "out")
    targets_ND, centre_D = fit_of(64), points_KD.mean(dim=0)
    # Least squares: the mean of the targets, projected on the span around the centre.
    span_KD = points_KD - centre_D
    beta_K = torch.linalg.lstsq(span_KD.T, targets_ND.mean(dim=0) - centre_D, driver="gelsd").solution
    lowest = loss_of(centre_D + beta_K @ span_KD, targets_ND)
    start = loss_of(centre_D, targets_ND)
    reached = loss_of(alpha_KG[:, 0] @ points_KD, targets_ND)
    assert start - lowest > 0.5, "or there is nothing to find"
    assert lowest - 1e-9 <= reached < lowest + 1e-3 * (start - lowest)
    course = report["training"]["search"]
    assert course["loss"][0] == pytest.approx(start)
    assert min(course["loss"]) == pytest.approx(reached)
    assert course["loss"].index(min(course["loss"])) == course["best_at"]


def test_it_is_cma_es_on_the_checkpoints_principal_axes(tmp_path: Path) -> None:
    """A plain reference: every model written out, singular vectors instead of a Gram matrix, one candidate after the
    other on the whole fit split."""
    points_KD = write_points(tmp_path / "checkpoints")
    run(tmp_path, "out", PointTask(), {"budget": 60.0, "share": 1.0, "step": 0.8}, seed=5)
    alpha_KG, report = saved(tmp_path, "out")
    targets_ND, centre_D = fit_of(64, seed=5), points_KD.mean(dim=0)
    left_KM, lengths_M, _ = torch.linalg.svd(points_KD - centre_D, full_matrices=False)
    kept = lengths_M > 1e-6
    # The sign of an axis is a matter of the decomposition, and decides which way the points lie: that of `eigh`.
    axes_KM, variances_M = left_KM[:, kept], lengths_M[kept].square()
    _, vectors_KM = torch.linalg.eigh((points_KD - centre_D) @ (points_KD - centre_D).T)
    axes_KM = axes_KM * (axes_KM * vectors_KM.flip(1)[:, : int(kept.sum())]).sum(dim=0).sign()
    scale_M = 0.3 * (variances_M / variances_M.mean()) ** -0.25
    numbers, population = len(scale_M), 4 + math.floor(3 * math.log(len(scale_M)))
    cma = CMA(mean=np.zeros(numbers), sigma=0.8 / math.sqrt(numbers), population_size=population)

    def alpha_of(z_M: np.ndarray) -> Tensor:
        u_K: Tensor = axes_KM @ (scale_M * torch.from_numpy(z_M))
        return torch.full((4,), 0.25, dtype=torch.float64) + u_K - u_K.mean()

    def loss(z_M: np.ndarray) -> float:
        return loss_of(alpha_of(z_M) @ points_KD, targets_ND)

    best, means = np.zeros(numbers), [loss(np.zeros(numbers))]
    for generation in range((60 - 1) // (population + 1)):
        cma.reseed_rng(np.random.SeedSequence([5, generation]).generate_state(1)[0])
        drawn = [cma.ask() for _ in range(population)]
        ranks = np.argsort(np.argsort([loss(z_M) for z_M in drawn]))
        cma.tell([(z_M, float(rank)) for z_M, rank in zip(drawn, ranks, strict=True)])
        means.append(loss(cma.mean))
        best = cma.mean.copy() if means[-1] == min(means) else best
    assert report["training"]["search"]["loss"] == pytest.approx(means, rel=1e-5)
    torch.testing.assert_close(alpha_KG[:, 0], alpha_of(best), rtol=0, atol=1e-6)


def test_it_raises_a_metric_that_has_no_gradient(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    for metric in ("f1", "exact"):
        task = SignTask(plain_net, count=200)
        run(
            tmp_path,
            f"start-{metric}",
            task,
            {"budget": 6.0, "population": 4, "step": 1e-9},
            metric=metric,
        )
        outcome = run(tmp_path, metric, task, {"budget": 120.0, "share": 1.0}, metric=metric)
        before, after = (_on_fit(tmp_path, name, metric) for name in (f"start-{metric}", metric))
        assert after > before + 0.02, (metric, before, after)
        (score,) = (each for each in outcome.candidates if each.method == "search")
        assert metric in score.select
        assert (task.generated > 0) == (metric == "exact")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_picked_start_ends_where_the_same_start_by_its_name_does(tmp_path: Path, seed: int) -> None:
    """By what judges: the loss, which picks the start, may have become worse."""
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    task, budget = SignTask(plain_net, count=200), {"budget": 60.0, "share": 1.0}
    run(tmp_path, "picked", task, budget | {"start": "auto"}, metric="f1", seed=seed)
    picked_KG, report = saved(tmp_path, "picked")
    details = report["details"]["search"]
    run(tmp_path, "named", task, budget | {"start": details["start"]}, metric="f1", seed=seed)
    named_KG, _ = saved(tmp_path, "named")
    assert torch.equal(picked_KG, named_KG)
    course = report["training"]["search"]
    assert details["fell_back"] == (course["best_at"] == 0)


def _on_fit(folder: Path, name: str, metric: str) -> float:
    """By hand, of the model that the coefficients make."""
    alpha_KG, _ = saved(folder, name)
    states = [load_file(path) for path in sorted((folder / "checkpoints").glob("*.safetensors"))]
    model = plain_net()
    model.load_state_dict(
        {
            key: sum(a * state[key].double() for a, state in zip(alpha_KG[:, 0].tolist(), states, strict=True)).float()
            for key in states[0]
        }
    )
    task = SignTask(plain_net, count=200)
    fit, _ = split(200, 0.5, 0)
    batch = task.open_data(folder, None).batch(fit)  # type: ignore[arg-type]  # the toy opens none
    with torch.no_grad():
        if metric == "exact":
            return float(task.generate(model, batch)["exact"].mean())
        counts = {key: float(rows.sum()) for key, rows in task.evaluate(model, batch).items()}
    return 2 * counts["hit"] / (counts["said"] + counts["true"])


@pytest.mark.parametrize("over", ["profile", "axes", "groups"])
def test_every_space_lowers_the_loss_and_keeps_the_sum(tmp_path: Path, over: str) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    run(tmp_path, "out", ToyTask(plain_net), {"over": over})
    alpha_KG, report = saved(tmp_path, "out")
    assert alpha_KG.shape == (5, 2 if over == "groups" else 1)
    torch.testing.assert_close(alpha_KG.sum(dim=0), torch.ones_like(alpha_KG[0]))
    losses = report["training"]["search"]["loss"]
    assert min(losses) < losses[0] - 0.03


def test_a_generation_sees_the_same_examples_and_its_better_half_more_of_them(tmp_path: Path) -> None:
    """2,048 examples to fit: a quarter for all 8, half for 4, and all for 2."""
    write_points(tmp_path / "checkpoints")
    task = PointTask(count=4096)
    run(tmp_path, "out", task, {"budget": 1.0 + 2 * (8 / 4 + 4 / 4 + 2 / 2 + 1), "population": 8, "share": 0.25})
    fit = {tuple(row) for row in Targets(4096).x[split(4096, 0.5, 0)[0]].tolist()}
    seen = [row for batch in task.evaluated for row in map(tuple, batch.tolist()) if row in fit]
    # In batches of 8: the start, then heat by heat, and the mean.
    walks = [2048, *[512] * 8, *[512] * 4, *[1024] * 2, 2048, *[512] * 8, *[512] * 4, *[1024] * 2, 2048]
    # What `best` and the result are shown to be worth comes from 256 of the split.
    assert len(seen) == 256 + sum(walks) + 256
    begin = 256
    parts: list[list[Any]] = []
    for length in walks:
        parts.append(seen[begin : begin + length])
        begin += length
    for generation in (parts[1:15], parts[16:30]):
        first, more, rest = generation[:8], generation[8:12], generation[12:]
        assert all(part == heat[0] for heat in (first, more, rest) for part in heat)
        assert len({*first[0], *more[0], *rest[0]}) == 2048
    assert set(parts[1]) != set(parts[16]), "another generation has others"
    assert set(parts[0]) == set(parts[15]) == set(parts[30]) == fit


def test_it_ends_where_nothing_better_is_found(tmp_path: Path) -> None:
    write_points(tmp_path / "checkpoints")
    run(tmp_path, "out", PointTask(), {"budget": 4000.0, "share": 1.0})
    course = saved(tmp_path, "out")[1]["training"]["search"]
    assert course["ended"] == "converged"
    assert course["ended_at"] - 1 - course["best_at"] == 8


def test_the_profile_begins_at_the_last_half_and_reaches_the_corners() -> None:
    positions = [10.0, 20.0, 30.0, 40.0, 60.0, 70.0, 80.0, 90.0]
    space = OfProfile(positions=positions)

    def at(window: float, fading: float, before_last: float) -> Tensor:
        alpha_KG = space.weights(torch.tensor([window, fading, before_last], dtype=torch.float64))
        assert float(alpha_KG.sum()) == pytest.approx(1.0)
        return alpha_KG[:, 0]

    # 90 steps: the first checkpoint stands for those from 0 to 10.
    torch.testing.assert_close(at(0, 0, -1), weights(positions, 7, Profile(POWER, 0.0, 45.0)))
    torch.testing.assert_close(at(9, 0, 0), torch.tensor([1, 1, 1, 1, 2, 1, 1, 1]).double() / 9)
    torch.testing.assert_close(at(1, 0, 4 / 7), weights(positions, 6, Profile(POWER, 0.0, 80.0)))
    between = at(1, 1, 2 / 7)
    ends = [weights(positions, end, Profile(POWER, 1.0, positions[end])) for end in (6, 7)]
    torch.testing.assert_close(between, (ends[0] + ends[1]) / 2)
    assert at(1, 0, 99)[0] == 1.0, "the first checkpoint alone"
    assert at(-99, 0, 0)[-1] > 0.7, "as little as one checkpoint"


@pytest.mark.slow
@pytest.mark.parametrize("over", ["profile", "axes", "groups"])
def test_a_search_that_dies_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    options = {"over": over, "budget": 60.0, "share": 0.5}

    def searched(name: str) -> tuple[Any, int]:
        task = ToyTask(plain_net, count=600)
        count = 0

        def counted(model: Any, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            nonlocal count
            count += len(batch["x"])
            return ToyTask.evaluate(task, model, batch)

        monkeypatch.setattr(task, "evaluate", counted)
        run(tmp_path, f"out-{name}", task, options, state_dir=tmp_path / f"state-{name.partition(' ')[0]}")
        alpha_KG, report = saved(tmp_path, f"out-{name}")
        return (alpha_KG.tolist(), report["training"]["search"]), count

    sizes: list[int] = []
    save = ResumeState.save

    def watched(dies_at: int | None) -> Any:
        def saving(state: ResumeState, key: str, value: Mapping[str, Any]) -> None:
            save(state, key, value)
            if key == "train-search":
                sizes.append((state.folder / f"{key}.pt").stat().st_size if state.folder else 0)
                if len(sizes) == dies_at:
                    raise Interrupted

        return saving

    monkeypatch.setattr(ResumeState, "save", watched(None))
    expected, whole = searched("whole")
    generations = len(sizes)
    assert generations >= 4
    assert max(sizes) < 64 * 1024, "kilobytes"
    for number in (1, generations // 2, generations):
        sizes.clear()
        monkeypatch.setattr(ResumeState, "save", watched(number))
        with pytest.raises(Interrupted):
            searched(f"died-{number}")
        monkeypatch.setattr(ResumeState, "save", save)
        resumed, again = searched(f"died-{number} resumed")
        assert resumed == expected
        assert again < whole, "and only what was left was evaluated"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "axis"}, "`over` of method `search` must be one of profile, axes, groups, but is 'axis'"),
        ({"budget": 0}, "`budget` of method `search` must be above 0"),
        ({"budget": 2.0}, r"`budget` of method `search` must be at least \d+(\.\d+)?, for the start and a generation"),
        ({"share": 1.5}, "`share` of method `search` must be at most 1"),
        ({"population": 3}, "`population` of method `search` must be at least 4, but is 3"),
        ({"over": "profile", "start": "best"}, "`start` of method `search` must be left out with `over: profile`"),
        ({"groups": "tensors"}, "`groups` of method `search` must be left out with `over: axes`"),
        ({"start": "nowhere"}, "`start` of method `search` must be centre, auto, the name of a checkpoint"),
    ],
    ids=str,
)
def test_bad_options_are_refused_by_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    with pytest.raises(MethodError, match=message):
        run(tmp_path, "out", ToyTask(plain_net), options)


def test_too_many_numbers_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=200)
    options = {"over": "groups", "groups": "tensors", "dimensions": 199}
    with pytest.raises(MethodError, match="must leave at most 512 numbers to search, but leave 995: 199 axes"):
        run(tmp_path, "out", ToyTask(plain_net), options)


def test_it_starts_from_another_method_and_never_ends_below_it_on_the_fit_split(tmp_path: Path) -> None:
    points_KD = write_points(tmp_path / "checkpoints")
    run(tmp_path, "out", PointTask(), {"start": "greedy-soup", "budget": 100.0, "share": 1.0})
    alpha_KG, report = saved(tmp_path, "out")
    course = report["training"]["search"]
    task: ToyTask = PointTask()
    soup = average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "soup", task=task, method="greedy-soup")
    assert next(each for each in soup.candidates if each.method == "greedy-soup").fit["loss"] == pytest.approx(
        course["loss"][0]
    )
    assert loss_of(alpha_KG[:, 0] @ points_KD, fit_of(64)) < course["loss"][0]
