"""The merge curve of a folder: its points against plain sums, what it reads, and how it goes on after a crash."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import EngineError, average, curve, rebuild
from ladle_engine import progress as events
from ladle_engine.evaluation import cache
from ladle_engine.pipeline.along import memory
from ladle_engine.placements.memory_probe import PeakMemory
from ladle_engine.profiles import Profile, weights
from ladle_engine.resume_state import ResumeState
from ladle_engine.storage.input_file import COUNTS
from tests.unit.engine.points import PointTask, write_points
from tests.unit.engine.toy import Interrupted, ToyTask, norm_net, plain_net, write_checkpoints

STEPS = [1, 2, 5, 6, 7, 12, 13, 20, 21, 22]
"""Checkpoints that lie apart stand for more."""


def bowl(place: Tensor) -> Tensor:
    return (place * place).sum() + 0.25


def around(count: int = len(STEPS)) -> list[tuple[float, float, float]]:
    """A run that goes down into the bowl and then wanders around its bottom."""
    generator = torch.Generator().manual_seed(3)
    place, found = torch.tensor([4.0, 3.0, -2.0]), []
    for _ in range(count):
        place = 0.7 * place + 0.5 * torch.randn(3, generator=generator)
        found.append((float(place[0]), float(place[1]), float(place[2])))
    return found


def run_of_points(folder: Path) -> Path:
    write_points(folder, around(), first=2)
    for number, step in reversed(list(enumerate(STEPS))):
        (folder / f"step-{number}.safetensors").rename(folder / f"checkpoint-{step:03}.safetensors")
    return folder


def drawn(folder: Path, output: Path, task: ToyTask, **options: Any) -> dict[str, Any]:
    curve(folder, folder, output=output, task=task, **options)
    found: dict[str, Any] = json.loads((output / "curve.json").read_text())
    return found


@pytest.fixture(scope="module")
def in_a_bowl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("curve")
    folder = run_of_points(root / "run")
    return root, drawn(folder, root / "out", PointTask(bowl, 2, 1))


def test_a_point_is_the_loss_of_the_checkpoint_and_of_the_plain_weighted_sum(
    in_a_bowl: tuple[Path, dict[str, Any]],
) -> None:
    _, found = in_a_bowl
    assert found["every"] == 1, "what was taken, where nothing was given"
    points, places = found["points"], torch.tensor(around(), dtype=torch.float64)
    assert [point["step"] for point in points] == STEPS
    scale = points[0]["alone"] / float(bowl(places[0]))
    for end, point in enumerate(points):
        assert point["alone"] == pytest.approx(scale * float(bowl(places[end])), rel=1e-5)
        alpha_K = torch.eye(len(STEPS), dtype=torch.float64)[end]
        if point["profile"] is not None:
            alpha_K = weights([float(step) for step in STEPS], end, Profile(**point["profile"]))
        assert point["average"] == pytest.approx(scale * float(bowl(alpha_K @ places)), rel=1e-5)
        assert int(alpha_K.nonzero()[-1]) == end
        assert (alpha_K[: end + 1 - point["averaged"]] == 0).all()
        assert point["gain"]["value"] == pytest.approx(point["alone"] - point["average"], abs=1e-9)
    assert any(point["profile"] is not None for point in points), "else the test would say nothing"


def test_at_each_point_the_best_of_all_that_was_tried_was_chosen(in_a_bowl: tuple[Path, dict[str, Any]]) -> None:
    """The loss of an example is its scale times that of the point, so both splits agree on what is best."""
    _, found = in_a_bowl
    places, steps = torch.tensor(around(), dtype=torch.float64), [float(step) for step in STEPS]
    scale = found["points"][0]["alone"] / float(bowl(places[0]))
    for end, point in enumerate(found["points"]):
        for count in (2, 4, 8):
            first = end + 1 - count
            if first >= 0 and first % count == 0:
                alpha_K = torch.zeros(len(STEPS), dtype=torch.float64)
                edges = torch.tensor([0.0, *steps], dtype=torch.float64)
                alpha_K[first : end + 1] = edges.diff()[first : end + 1] / edges.diff()[first : end + 1].sum()
                assert point["average"] <= scale * float(bowl(alpha_K @ places)) * (1 + 1e-6)
        assert point["average"] <= point["alone"]


def test_the_report_draws_the_curve_and_says_what_it_says(in_a_bowl: tuple[Path, dict[str, Any]]) -> None:
    root, found = in_a_bowl
    report = json.loads((root / "out/report.json").read_text())
    assert report["kind"] == "curve"
    assert report["merge_curve"]["points"] == found["points"]
    assert {row["method"] for row in report["candidates"]} == {"best", "profile"}
    assert not list((root / "out").glob("model*")), "a curve writes no model"
    assert "Averag" in found["words"][0]
    assert "the averaged model became" in found["words"][1]


def test_the_best_average_of_a_curve_is_rebuilt_from_its_coefficients(in_a_bowl: tuple[Path, dict[str, Any]]) -> None:
    root, found = in_a_bowl
    rebuild(root / "out", root / "run", output=root / "again", candidate="profile")
    best = min((p for p in found["points"] if p["profile"]), key=lambda point: point["average"])
    place = torch.cat([tensor[:, 0] for _, tensor in sorted(load_file(root / "again/model.safetensors").items())])
    scale = found["points"][0]["alone"] / float(bowl(torch.tensor(around()[0])))
    assert scale * float(bowl(place)) == pytest.approx(best["average"], rel=1e-5)


def wide_net() -> nn.Module:
    """Weights beside which the header of a file is little."""
    return nn.Sequential(nn.Linear(6, 2000), nn.Tanh(), nn.Linear(2000, 1))


def wide_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 2000), nn.Tanh(), nn.Linear(2000, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


@pytest.mark.parametrize(("net", "readings"), [(wide_net, 2), (wide_norm_net, 3)])
def test_a_long_run_is_read_twice_and_once_more_for_statistics(tmp_path: Path, net: Any, readings: int) -> None:
    folder = tmp_path / "run"
    write_checkpoints(folder, net, count=40)
    COUNTS.clear()
    drawn(folder, tmp_path / "out", ToyTask(net), every=8)
    for path in folder.iterdir():
        # Headers and statistics besides.
        assert COUNTS.bytes[path] < (readings + 0.2) * path.stat().st_size, path


def test_recomputed_statistics_are_those_of_any_other_candidate(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_checkpoints(folder, norm_net, count=6)
    drawn(folder, tmp_path / "out", ToyTask(norm_net))
    report, saved = (json.loads((tmp_path / "out" / name).read_text()) for name in ("report.json", "coefficients.json"))
    (profile,) = (row for row in report["candidates"] if row["method"] == "profile")
    alpha = [row[0] for row in saved["candidates"]["profile"]["alpha"]]
    given = average(
        folder, folder, output=tmp_path / "given", task=ToyTask(norm_net), method="given",
        method_options={"coefficients": alpha},
    )  # fmt: skip
    (expected,) = (score for score in given.candidates if score.method == "given")
    assert profile["select"] == pytest.approx(expected.select, rel=1e-5)
    assert profile["statistics"] == report["statistics"]["mixtures"]


class Dying:
    """Dies at a step of the walk."""

    def __init__(self, dies_at: int) -> None:
        self.dies_at = dies_at

    def __call__(self, event: events.ProgressEvent) -> None:
        if isinstance(event, events.StepDone) and event.stage == "evaluate" and event.step >= self.dies_at:
            raise Interrupted


def telling_all(init: Any) -> Any:
    """Every step is told of, however fast they come."""

    def patched(self: events.Pace, *args: Any, **options: Any) -> None:
        init(self, *args, **options | {"per_second": math.inf})

    return patched


class CountingTask(ToyTask):
    evaluated = 0

    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        self.evaluated += 1
        return super().evaluate(model, batch)


@pytest.mark.parametrize("net", [plain_net, norm_net])
def test_a_curve_that_is_interrupted_goes_on_with_the_same_bits_and_evaluates_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Any
) -> None:
    folder = tmp_path / "run"
    write_checkpoints(folder, net, count=8)
    counted = {}

    def run(output: str, state: str, progress: Any = events.ignore) -> dict[str, Any]:
        task = CountingTask(net)
        try:
            return drawn(folder, tmp_path / output, task, state_dir=tmp_path / state, progress=progress)
        finally:
            counted[output] = task.evaluated

    whole = run("whole", "one")
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(ResumeState, "is_due", lambda state: True)
        patched.setattr(cache, "SAVING_SHARE", math.inf)
        patched.setattr(events.Pace, "__init__", telling_all(events.Pace.__init__))
        run("died", "two", Dying(dies_at=6))
    assert not list(tmp_path.glob("*died*")), "nothing is left behind"
    assert run("again", "two") == whole
    assert counted["again"] < 0.7 * counted["whole"]


def test_with_little_memory_fewer_averages_run_along_and_with_less_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    write_points(folder, around(), first=2)
    told: list[str] = []

    def listen(event: events.ProgressEvent) -> None:
        if isinstance(event, events.Warned):
            told.append(event.message)

    class Peak(PeakMemory):
        """Of a batch whose activations are so many bytes."""

        def __exit__(self, *exc_info: object) -> None:
            self.bytes = batch

    batch = 0
    monkeypatch.setattr(memory, "PeakMemory", Peak)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 130)
    found = drawn(folder, tmp_path / "out", PointTask(bowl, 2, 1), windows=2, progress=listen)
    assert any("do not fit into memory" in message for message in told)
    assert found["windows"] == 1 or found["shapes"] == ["linear"]
    planned = json.loads((tmp_path / "out/report.json").read_text())["memory"]
    assert planned["needed_bytes"] == planned["parts"]["vectors"] <= 0.8 * 130
    for batch, available in ((0, 30), (100, 130)):
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=available: free)
        with pytest.raises(EngineError, match="beside a batch of 100 bytes" if batch else "must have") as caught:
            drawn(folder, tmp_path / "none", PointTask(bowl, 2, 1))
        assert caught.value.code == "out-of-memory"
        assert not (tmp_path / "none").exists()


def test_what_is_of_another_kind_of_job_is_refused(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "run", around(3), first=2)
    with pytest.raises(ValueError, match="`method` must be 'auto' with `kind` curve"):
        drawn(folder, tmp_path / "out", PointTask(bowl, 2, 1), method="twa")
