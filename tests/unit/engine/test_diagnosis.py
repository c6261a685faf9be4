"""What `diagnose` says, on losses whose lines, basins and planes are known in closed form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ladle_engine import average
from ladle_engine import progress as events
from ladle_engine.evaluation import cache
from ladle_engine.pipeline.diagnosis.diagnose import chosen
from ladle_engine.pipeline.diagnosis.verdict import Found, verdict
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Metric
from tests.unit.engine.points import PointTask, write_points
from tests.unit.engine.toy import Interrupted, ToyTask, norm_net, plain_net, write_checkpoints

BOWL_POINTS = [(3.0, 0.0, 0.5), (0.0, 2.0, -0.5), (-1.0, -1.0, 1.0), (2.0, 2.0, 0.0)]
WELLS_POINTS = [(-1.1, 0.2), (-0.9, -0.1), (1.0, 0.3), (0.95, -0.2), (1.05, 0.0)]


def bowl(place: Tensor) -> Tensor:
    """A quadratic with its bottom at (1, 0.5, 0)."""
    moved = place - torch.tensor([1.0, 0.5, 0.0])
    return (torch.tensor([1.0, 2.0, 0.5]) * moved * moved).sum() + 0.25


def wells(place: Tensor) -> Tensor:
    """Two wells at x = -1 and x = 1, with a ridge of height 1 between."""
    return (place[0] ** 2 - 1) ** 2 + place[1] ** 2 + 0.1


def report_of(folder: Path, output: Path, task: ToyTask, **options: Any) -> dict[str, Any]:
    average(folder, folder, output=output, task=task, diagnose=True, **options)
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def in_a_bowl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("bowl")
    folder = write_points(root / "points", BOWL_POINTS, first=2)
    return report_of(folder, root / "out", PointTask(bowl, 2, 1), method="twa-layerwise", method_options={"steps": 10})


def scale_of(report: Mapping[str, Any]) -> float:
    """The mean scale of the examples that losses are on: the same for every point."""
    alone = report["diagnosis"]["segments"][0]["loss"][-1]
    return float(alone / bowl(torch.tensor(BOWL_POINTS[0])))


def test_a_segment_goes_from_the_centre_to_its_checkpoint(in_a_bowl: dict[str, Any]) -> None:
    centre, scale = torch.tensor(BOWL_POINTS).mean(dim=0), scale_of(in_a_bowl)
    segments = in_a_bowl["diagnosis"]["segments"]
    assert [segment["checkpoint"] for segment in segments] == [f"step-{number}.safetensors" for number in range(4)]
    for segment, point in zip(segments, torch.tensor(BOWL_POINTS), strict=True):
        expected = [scale * float(bowl(centre + t * (point - centre))) for t in segment["t"]]
        assert segment["loss"] == pytest.approx(expected, rel=1e-5)
        assert segment["barrier"] == 0.0, "a quadratic lies below the line between any two of its points"


def test_points_of_a_bowl_lie_in_one_basin(in_a_bowl: dict[str, Any]) -> None:
    diagnosis = in_a_bowl["diagnosis"]
    assert diagnosis["basins"] == [[f"step-{number}.safetensors" for number in range(4)]]
    assert diagnosis["verdict"].startswith("All 4 checkpoints lie in one basin")
    assert not any(pair["parted"] for pair in diagnosis["pairs"])
    assert diagnosis["examples"] == in_a_bowl["splits"]["fit_judged"] == 32


def test_the_plane_holds_the_three_models_at_their_true_distances_and_the_loss_of_its_points(
    in_a_bowl: dict[str, Any],
) -> None:
    plane = in_a_bowl["diagnosis"]["plane"]
    places = {
        "best": torch.tensor(BOWL_POINTS[_best(in_a_bowl)], dtype=torch.float64),
        "uniform": torch.tensor(BOWL_POINTS, dtype=torch.float64).mean(dim=0),
        "winner": _winner(in_a_bowl),
    }
    found = {name: torch.tensor(plane["points"][name], dtype=torch.float64) for name in places}
    for one in places:
        for other in places:
            expected = float((places[one] - places[other]).norm())
            assert float((found[one] - found[other]).norm()) == pytest.approx(expected, abs=1e-6)
    origin, (x_axis, y_axis) = places["uniform"], _axes(places)
    scale = scale_of(in_a_bowl)
    assert len(plane["x"]) == len(plane["y"]) == len(plane["loss"]) == 11
    for y, row in zip(plane["y"], plane["loss"], strict=True):
        expected_row = [scale * float(bowl((origin + x * x_axis + y * y_axis).float())) for x in plane["x"]]
        assert row == pytest.approx(expected_row, rel=1e-4)
    for name, point in plane["points"].items():
        assert plane["x"][0] < point[0] < plane["x"][-1], name
        assert plane["y"][0] < point[1] < plane["y"][-1], name
    for checkpoint, place in zip(plane["checkpoints"].values(), torch.tensor(BOWL_POINTS).double(), strict=True):
        moved = place - origin
        assert checkpoint == pytest.approx([float(moved @ x_axis), float(moved @ y_axis)], abs=1e-6)


def _best(report: Mapping[str, Any]) -> int:
    (alpha_K,) = report["candidates"][0]["coefficients"]
    return int(torch.tensor(alpha_K).argmax())


def _winner(report: Mapping[str, Any]) -> Tensor:
    """The place of the winner: each layer is an average of its own."""
    row = next(each for each in report["candidates"] if each["method"] == report["winner"] == "twa-layerwise")
    assert row["groups"] == ["first", "second"]
    alpha_GK, points = (torch.tensor(each, dtype=torch.float64) for each in (row["coefficients"], BOWL_POINTS))
    return torch.cat([alpha_GK[0] @ points[:, :2], alpha_GK[1] @ points[:, 2:]])


def _axes(places: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    first = places["best"] - places["uniform"]
    x_axis = first / first.norm()
    second = places["winner"] - places["uniform"]
    second = second - (second @ x_axis) * x_axis
    return x_axis, second / second.norm()


def test_the_curve_has_the_running_averages_on_the_whole_select_split(in_a_bowl: dict[str, Any]) -> None:
    curve = in_a_bowl["merge_curve"]
    points = torch.tensor(BOWL_POINTS)
    scale = curve["points"][0]["alone"] / float(bowl(points[0]))
    assert curve["metric"] == "loss"
    for number, point in enumerate(curve["points"]):
        assert (point["step"], point["averaged"]) == (number, number + 1)
        assert point["alone"] == pytest.approx(scale * float(bowl(points[number])), rel=1e-5)
        assert point["average"] == pytest.approx(scale * float(bowl(points[: number + 1].mean(dim=0))), rel=1e-5)
        assert point["alone_examples"] == point["average_examples"] == 32


@pytest.fixture(scope="module")
def in_wells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("wells")
    folder = write_points(root / "points", WELLS_POINTS)
    return report_of(folder, root / "out", PointTask(wells), method="given", method_options={
        "coefficients": [0.0, 0.0, 0.3, 0.3, 0.4]
    })  # fmt: skip


def test_two_planted_basins_are_found_and_told_of(in_wells: dict[str, Any]) -> None:
    diagnosis = in_wells["diagnosis"]
    basins = [["step-2", "step-3", "step-4"], ["step-0", "step-1"]]
    assert diagnosis["basins"] == [[f"{name}.safetensors" for name in basin] for basin in basins]
    assert in_wells["winner"] == "given"
    assert diagnosis["verdict"].startswith("`step-0.safetensors` and `step-1.safetensors` lie in another basin: ")
    assert diagnosis["verdict"].endswith("They get no weight in `given`.")
    assert [row["average"] is None for row in in_wells["merge_curve"]["points"]] == [False] * 5


def test_a_barrier_is_as_high_as_the_ridge_over_the_line_between_both_ends(in_wells: dict[str, Any]) -> None:
    places = {f"step-{number}.safetensors": torch.tensor(place) for number, place in enumerate(WELLS_POINTS)}
    scale = in_wells["diagnosis"]["segments"][0]["loss"][-1] / float(wells(places["step-0.safetensors"]))
    parted = [pair for pair in in_wells["diagnosis"]["pairs"] if pair["parted"]]
    assert parted
    for pair in parted:
        one, other = (places[name] for name in pair["checkpoints"])
        line = (float(wells(one)) + float(wells(other))) / 2
        assert pair["barrier"] == pytest.approx(scale * (float(wells((one + other) / 2)) - line), rel=1e-4)
        assert 0 < pair["noise"] < pair["barrier"] / 5, "the scatter of the examples' scales"


def test_a_rise_that_noise_explains_is_no_barrier(tmp_path: Path) -> None:
    """The ridge is a hundred times lower, and stands on a loss of 1: less than 2 % of it."""
    folder = write_points(tmp_path / "points", WELLS_POINTS)

    def flat(place: Tensor) -> Tensor:
        return 1 + wells(place) / 100

    diagnosis = report_of(folder, tmp_path / "out", PointTask(flat), method="uniform")["diagnosis"]
    assert len(diagnosis["basins"]) == 1
    assert max(pair["barrier"] for pair in diagnosis["pairs"]) > 0.005, "it is there, but too low"


def test_a_loss_that_is_not_finite_between_checkpoints_is_a_barrier_without_a_height(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS)

    def torn(place: Tensor) -> Tensor:
        return torch.where(place[0].abs() < 0.5, torch.inf, wells(place))

    report = report_of(folder, tmp_path / "out", PointTask(torn), method="best")
    diagnosis = report["diagnosis"]
    assert [len(basin) for basin in diagnosis["basins"]] == [3, 2]
    assert {pair["barrier"] for pair in diagnosis["pairs"] if pair["parted"]} == {None}
    assert "the loss is not finite" in diagnosis["verdict"]
    assert any(loss is None for row in diagnosis["plane"]["loss"] for loss in row)
    assert report["merge_curve"]["points"][2]["average"] is None


def test_a_value_that_leaves_its_range_far_out_does_not_end_the_job(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS)

    class Bounded(PointTask):
        metrics = (Metric(name="loss", higher_is_better=False, high=1.7),)

    plane = report_of(folder, tmp_path / "out", Bounded(wells), method="uniform")["diagnosis"]["plane"]
    losses = [loss for row in plane["loss"] for loss in row]
    assert None in losses
    assert any(loss is not None for loss in losses)


def test_weights_that_do_not_sum_to_1_are_not_a_point_among_the_checkpoints(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS)
    options = {"coefficients": [0.0, 0.0, 0.3, 0.2, 0.49], "any_sum": True}
    report = report_of(folder, tmp_path / "out", PointTask(wells), method="given", method_options=options)
    plane = report["diagnosis"]["plane"]
    assert report["winner"] == "given"
    assert "winner" not in plane["points"]
    assert plane["third"] in plane["checkpoints"]


def test_two_checkpoints_make_a_line_and_no_plane(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS[:2])
    diagnosis = report_of(folder, tmp_path / "out", PointTask(wells), method="uniform")["diagnosis"]
    assert diagnosis["plane"] is None
    assert len(diagnosis["segments"]) == 2
    assert len(diagnosis["pairs"]) == 1


@pytest.mark.parametrize("method", ["best", "random"])
def test_a_third_model_makes_the_plane_where_the_winner_does_not(tmp_path: Path, method: str) -> None:
    """`best` lies on the line of the first two, `random` not among the checkpoints."""
    folder = write_points(tmp_path / "points", WELLS_POINTS)
    options = {} if method == "best" else {"steps": 4, "dimensions": 1}
    report = report_of(folder, tmp_path / "out", PointTask(wells), method=method, method_options=options)
    plane = report["diagnosis"]["plane"]
    assert plane["third"] in plane["checkpoints"]
    assert ("winner" in plane["points"]) == (report["winner"] == "best")


@pytest.mark.parametrize(
    ("count", "best", "expected"),
    [
        (2, 1, [0, 1]),
        (12, 3, list(range(12))),
        (13, 3, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]),
        (300, 299, [0, 27, 54, 82, 109, 136, 163, 190, 217, 245, 272, 299]),
        (300, 100, [0, 27, 54, 82, 100, 109, 136, 163, 190, 217, 245, 272, 299]),
    ],
)
def test_of_many_checkpoints_some_along_the_run_and_the_best_are_compared(
    count: int, best: int, expected: list[int]
) -> None:
    assert chosen(count, best) == expected


def test_of_many_checkpoints_the_report_says_which_were_compared(tmp_path: Path) -> None:
    points = [(1 + number / 100, 0.0) for number in range(20)]
    folder = write_points(tmp_path / "points", points)
    report = report_of(folder, tmp_path / "out", PointTask(wells), method="uniform")
    evaluated = [row["averaged"] for row in report["merge_curve"]["points"] if row["average"] is not None]
    assert evaluated == [1, 3, 4, 6, 8, 10, 11, 13, 15, 17, 18, 20]
    assert len(report["diagnosis"]["segments"]) == 12
    assert report["diagnosis"]["verdict"].startswith("12 of 20 checkpoints were compared. They all lie in one basin")


NAMES = tuple("abcdefgh")
RISE = "in another basin: on the way to the others the loss is 0.5 above the average of both ends."


@pytest.mark.parametrize(
    ("basins", "weights", "expected"),
    [
        (
            [[4, 5, 6, 7], [0, 1, 2, 3]],
            [0.0] * 4 + [0.25] * 4,
            f"The 4 checkpoints from `a` to `d` lie {RISE} They get no weight in `twa`.",
        ),
        (
            [[0, 1, 2, 3, 4, 5, 6], [7]],
            [0.16] * 7 + [-0.12],
            f"`h` lies {RISE} It gets -12 % of the weight in `twa`.",
        ),
        (
            [[1, 3, 5], [0, 2, 4, 6, 7]],
            [0.0, 0.3, 0.1, 0.3, 0.0, 0.3, 0.0, 0.0],
            f"`a`, `c`, `e` and 2 more lie {RISE} They get 10 % of the weight in `twa`.",
        ),
        (
            [[number] for number in range(8)],
            [0.125] * 8,
            "No two checkpoints lie in one basin: on the way from one to another the loss is above the average of both "
            "ends. Averages of them cannot be expected to help.",
        ),
    ],
)
def test_the_verdict_is_in_words(basins: list[list[int]], weights: list[float], expected: str) -> None:
    found = Found(
        names=NAMES, compared=range(8), basins=basins, rises=[0.5] * (len(basins) - 1), weights=weights, winner="twa"
    )
    assert verdict(found) == expected


class Dying:
    """A progress callback that raises at a step of the stage `diagnose`."""

    def __init__(self, dies_at: int) -> None:
        self.dies_at = dies_at
        self.steps: list[int] = []

    def __call__(self, event: events.ProgressEvent) -> None:
        if isinstance(event, events.StepDone) and event.stage == "diagnose":
            self.steps.append(event.step)
            if event.step >= self.dies_at:
                raise Interrupted


@pytest.mark.parametrize("net", [plain_net, norm_net])
def test_a_diagnosis_that_is_interrupted_leaves_nothing_and_goes_on_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Any
) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, net)
    counted = {}

    def run(output: str, state: str, progress: Any = events.ignore) -> dict[str, Any]:
        task = CountingTask(net)
        try:
            return report_of(
                folder, tmp_path / output, task, method="twa-layerwise", method_options={"steps": 10},
                state_dir=tmp_path / state, progress=progress,
            )  # fmt: skip
        finally:
            counted[output] = task.evaluated

    whole = run("whole", "one")
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(ResumeState, "is_due", lambda state: True)
        patched.setattr(cache, "SAVING_SHARE", math.inf)
        patched.setattr(events.Pace, "__init__", _telling_all(events.Pace.__init__))
        run("died", "two", Dying(dies_at=60))
    assert not list(tmp_path.glob("*died*")), "nothing is left behind"
    again = run("again", "two")
    assert again["diagnosis"] == whole["diagnosis"]
    assert again["merge_curve"] == whole["merge_curve"]
    assert again["training"] == whole["training"]
    assert counted["again"] < 0.7 * counted["whole"], "what was known was not evaluated again"


class CountingTask(ToyTask):
    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.evaluated = 0

    def evaluate(self, model: Any, batch: Any) -> Any:
        self.evaluated += 1
        return super().evaluate(model, batch)


def _telling_all(init: Any) -> Any:
    def told(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options | {"per_second": math.inf})

    return told


def test_progress_counts_to_the_end_of_a_diagnosis(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS)
    seen: list[Any] = []
    report_of(folder, tmp_path / "out", PointTask(wells), method="uniform", progress=seen.append)
    stages = [event.stage for event in seen if isinstance(event, events.StageStarted)]
    assert stages[-3:] == ["diagnose", "write", "verify"]
    last = [event for event in seen if isinstance(event, events.StepDone) and event.stage == "diagnose"][-1]
    assert last.step == last.total
    assert last.eta_s == 0


@pytest.mark.parametrize("precision", ["streamed", "int8", "bfloat16"])
def test_a_diagnosis_says_the_same_however_the_directions_are_kept(
    tmp_path: Path, in_wells: dict[str, Any], precision: str
) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS)
    options = {"coefficients": [0.0, 0.0, 0.3, 0.3, 0.4]}
    report = report_of(
        folder, tmp_path / "out", PointTask(wells), method="given", method_options=options, precision=precision
    )
    assert report["memory"]["precision"] == precision
    found, expected = report["diagnosis"], in_wells["diagnosis"]
    assert (found["basins"], found["plane"]["third"]) == (expected["basins"], expected["plane"]["third"])
    tolerance = {"streamed": 1e-6, "int8": 0.05, "bfloat16": 0.02}[precision]
    for one, other in zip(found["segments"], expected["segments"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=tolerance)
    for row, other_row in zip(found["plane"]["loss"], expected["plane"]["loss"], strict=True):
        assert row == pytest.approx(other_row, rel=10 * tolerance, abs=tolerance)


def test_without_being_asked_nothing_is_diagnosed_and_what_is_known_is_told(tmp_path: Path) -> None:
    folder = write_points(tmp_path / "points", WELLS_POINTS)
    task = PointTask(wells)
    average(folder, folder, output=tmp_path / "out", task=task, method="uniform")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "diagnosis" not in report
    points = report["merge_curve"]["points"]
    assert [point["average"] is not None for point in points] == [True, False, False, False, True]
    assert points[0]["average"] == points[0]["alone"], "the average of one"
    assert points[-1]["average"] == report["candidates"][1]["select"]["loss"]
