"""What averaging is expected to bring: features by definition, the fitted line, and what a job and `inspect` say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

import ladle_engine.subspace.forecast as forecasting
from ladle_engine import average, inspect
from ladle_engine.inspection import distances
from ladle_engine.subspace.forecast import Seen, as_share, bent, features_of, forecast, line, straightened
from tests.builders import make_base, make_checkpoints
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

Points = NDArray[np.float64]


def seen_of(points: Points, **more: Any) -> Seen:
    """As if these were checkpoints."""
    weights = torch.tensor(points)
    return Seen(distances_KK=torch.cdist(weights, weights), centre_norm=float(weights.mean(dim=0).norm()), **more)


def by_hand(points: Points, steps: list[float], losses: list[float]) -> dict[str, float]:
    K, centre = len(points), points.mean(axis=0)
    third = (K - 1) // 3
    mean_gap = (steps[-1] - steps[0]) / (K - 1)
    moves = [np.linalg.norm(points[i + 1] - points[i]) ** 2 for i in range(K - 1)]
    rates = [move / ((steps[i + 1] - steps[i]) / mean_gap) for i, move in enumerate(moves)]
    pairs = [np.linalg.norm(points[i] - points[j]) ** 2 for i in range(K) for j in range(i)]
    spread = np.mean([np.linalg.norm(point - centre) ** 2 for point in points])
    early, late = losses[: K // 3], losses[-(K // 3) :]
    return {
        "slowing": math.log(math.sqrt(np.mean(rates[-third:]) / np.mean(rates[:third]))),
        "noise": math.log(np.mean(moves) / np.mean(pairs)),
        "size": math.log(math.sqrt(spread) / np.linalg.norm(centre)),
        "lead": math.log(float(np.median(losses)) / min(losses)),
        "falling": math.log(np.mean(late) / np.mean(early)),
    }


def test_features_are_those_of_the_definition() -> None:
    draws = np.random.default_rng(0)
    points = 3 + draws.normal(size=(9, 40)).cumsum(axis=0)
    steps = [10.0, 20.0, 25.0, 60.0, 70.0, 90.0, 100.0, 101.0, 150.0]
    losses = list(draws.uniform(0.2, 0.6, size=9))
    found = features_of(seen_of(points, steps=steps, losses=losses))
    assert found == pytest.approx(by_hand(points, steps, losses), rel=1e-6)
    turned = points @ np.linalg.qr(draws.normal(size=(40, 40)))[0]
    assert features_of(seen_of(7 * turned, steps=steps, losses=[5 * loss for loss in losses])) == pytest.approx(
        found, rel=1e-6
    ), "they go by no units"


def test_noise_around_a_point_travel_and_a_decayed_rate_are_told_apart() -> None:
    draws = np.random.default_rng(1)
    moves = draws.normal(size=(20, 4000))
    around, walk = features_of(seen_of(1 + moves)), features_of(seen_of(1 + moves.cumsum(axis=0)))
    slower = features_of(seen_of(1 + (moves * np.linspace(1, 0.05, 20)[:, None]).cumsum(axis=0)))
    assert around is not None
    assert walk is not None
    assert slower is not None
    assert around["noise"] == pytest.approx(0, abs=0.05)
    assert walk["noise"] == pytest.approx(math.log(3 / 21), abs=0.3), "a random walk's pairs are (K + 1) / 3 apart"
    assert abs(walk["slowing"]) < 0.1
    assert slower["slowing"] < -0.8


@pytest.mark.parametrize(
    "points",
    [np.ones((3, 2)).cumsum(axis=0), np.ones((5, 2)), np.full((5, 2), np.nan), np.zeros((0, 2))],
    ids=["three", "copies", "nan", "none"],
)
def test_of_too_few_of_copies_and_of_no_numbers_nothing_is_told(points: Points) -> None:
    assert forecast(seen_of(points)) is None


def test_losses_that_are_no_numbers_and_steps_that_do_not_rise_are_left_out() -> None:
    points = np.random.default_rng(2).normal(size=(5, 8))
    plain = features_of(seen_of(points))
    assert features_of(seen_of(points, steps=[1, 2, 2, 3, 4], losses=[0.1, math.inf, 1, 1, 1])) == plain
    assert features_of(seen_of(points, steps=[1, None, 3, 4, 5], losses=[0.0, 1, 1, 1, 1])) == plain


SLOWING = {"slowing": {"slope": 1.0, "mean": 0.0, "seen": [-1.0, 1.0]}}
LEAD = {"lead": {"slope": 0.0, "mean": 0.0, "seen": [0.0, 9.0]}}
FIT: Mapping[str, Any] = {
    "sets": 50,
    "families": ["a", "b"],
    "targets": {
        "result": [
            {"constant": bent(0.2), "terms": LEAD, "spread": [-0.5, 0.5], "error_points": 3.0, "covered": 0.8},
            {"constant": bent(0.1), "terms": SLOWING, "spread": [-0.5, 0.5], "error_points": 5.0, "covered": 0.8},
        ],
        "mean": [{"constant": bent(-0.05), "terms": {}, "spread": [-1.0, 1.0], "error_points": 9.0, "covered": 0.8}],
    },
    "decayed": {"below": -0.5, "gains": [0.0, 0.01, 0.02]},
}


def test_the_best_form_that_is_offered_and_whose_features_are_known_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "fitted", lambda: FIT)
    points = 1 + np.random.default_rng(3).normal(size=(6, 20)) * np.array([[8, 8, 4, 1, 0.1, 0.1]]).T
    found = forecast(seen_of(points, steps=range(6)))
    assert found is not None
    far = found["result"]
    assert (far["goes_by"], far["beyond"], found["decayed"]) == (["slowing"], ["slowing"], True)
    assert far["lower"] == pytest.approx(as_share(straightened(bent(0.1) - 1.0))), "as far as was seen, and no further"
    assert far["low"] < far["lower"] < far["high"]
    assert (found["mean"]["goes_by"], found["mean"]["lower"]) == ([], pytest.approx(1 - math.exp(0.05)))
    told = forecast(seen_of(points, losses=[0.5] * 6))
    assert told is not None
    assert not told["decayed"], "nothing says that they follow each other"
    assert (told["result"]["goes_by"], told["result"]["lower"]) == (["lead"], pytest.approx(1 - math.exp(-0.2)))


def test_the_scale_turns_back_and_keeps_the_order() -> None:
    gains = [-0.5, -0.01, 0.0, 0.02, 0.3, 1.5]
    assert [straightened(bent(gain)) for gain in gains] == pytest.approx(gains)
    assert sorted(map(bent, gains)) == list(map(bent, gains))


def test_what_is_fitted_is_there_and_can_be_used() -> None:
    targets = forecasting.fitted()["targets"]
    assert targets.keys() == {"result", "mean"}
    for forms in targets.values():
        assert forms[-1]["terms"] == {}, "the last one needs no feature"
        for form in forms:
            assert set(form["terms"]) <= {*forecasting.OF_DISTANCES, *forecasting.OF_LOSSES}
            assert math.isfinite(line(form, dict.fromkeys(form["terms"], 0.0)))
            assert form["spread"][0] < form["spread"][1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=6)
    return tmp_path


@pytest.mark.parametrize("method", ["uniform", "greedy-soup"])
def test_a_job_says_what_was_to_be_expected_beside_what_came(folder: Path, method: str) -> None:
    outcome = average(folder / "checkpoints", "data", output=folder / "out", task=ToyTask(plain_net), method=method)
    report = json.loads((folder / "out" / "report.json").read_text())
    told = report["forecast"]
    distances_KK = torch.tensor(report["geometry"]["distances"])
    seen = Seen(
        distances_KK=distances_KK,
        centre_norm=_centre_norm(folder / "checkpoints"),
        steps=[each["step"] for each in report["checkpoints"]],
        losses=[each["select"]["means"]["loss"] for each in report["checkpoints"]],
    )
    expected = forecast(seen)
    assert expected is not None
    assert told["features"] == pytest.approx(expected["features"], rel=1e-4)
    assert told["mean"]["lower"] == pytest.approx(expected["mean"]["lower"], rel=1e-4)
    assert outcome.forecast
    page = (folder / "out" / "report.html").read_text()
    for text in (page, (folder / "out" / "README.md").read_text()):
        assert outcome.forecast.split(" (")[0] in text
        assert "On the held-out examples" in text


def _centre_norm(folder: Path) -> float:
    states = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    means = [torch.stack([state[name].double() for state in states]).mean(dim=0) for name in states[0]]
    return math.sqrt(sum(float(mean.square().sum()) for mean in means))


def _flat(path: Path) -> Tensor:
    state = load_file(path)
    names = [name for name in sorted(state) if "running" not in name and state[name].is_floating_point()]
    return torch.cat([state[name].double().flatten() for name in names])


@pytest.mark.parametrize(("most", "within"), [(1 << 20, 1e-6), (3000, 0.15)], ids=["whole", "a part"])
def test_distances_of_an_inspection_are_those_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, within: float
) -> None:
    run = make_checkpoints(tmp_path / "run", count=5, batch_norm=True, width=8)
    base = make_base(tmp_path / "base.safetensors", run / "epoch-1.safetensors")
    monkeypatch.setattr(distances, "MOST_OF_ONE", most)
    monkeypatch.setattr(distances, "BLOCK", 64)
    found = inspect(run, base=base, forecast=True)
    assert found.usable, found.problems
    weights = torch.stack([_flat(run / f"epoch-{number}.safetensors") for number in range(1, 6)])
    assert found.base is not None
    assert found.base.distances == pytest.approx((weights - _flat(base)).norm(dim=1).tolist(), rel=within)
    expected = forecast(
        Seen(
            distances_KK=torch.cdist(weights, weights),
            centre_norm=float(weights.mean(dim=0).norm()),
            steps=[1, 2, 3, 4, 5],
        )
    )
    assert found.forecast is not None
    assert expected is not None
    assert found.forecast["features"] == pytest.approx(expected["features"], abs=2 * within)


def test_an_inspection_reads_no_weights_unless_asked_and_says_why_nothing_is_told(tmp_path: Path) -> None:
    run = make_checkpoints(tmp_path / "run", count=3)
    assert inspect(run).forecast is None
    few = inspect(run, forecast=True)
    assert few.usable
    assert few.forecast is None
    assert any("at least 4 checkpoints" in warning for warning in few.warnings)


def test_of_large_checkpoints_a_part_is_read(tmp_path: Path) -> None:
    for number in range(4):
        weights = torch.zeros(8_000_000)
        weights[number::7] = 1.0
        save_file({"weight": weights}, tmp_path / f"step-{number}.safetensors")
    before = _bytes_read()
    found = inspect(tmp_path, forecast=True)
    assert found.forecast is not None
    assert 4 * 4 * distances.MOST_OF_ONE <= _bytes_read() - before < 24_000_000 < 4 * 32_000_000
    assert found.forecast["features"]["noise"] == pytest.approx(0, abs=0.02), "all are equally far apart"


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])
