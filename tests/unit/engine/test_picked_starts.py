"""`start: auto`: the fit split picks where training begins, and what is trained never loses to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladle_engine import average
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.methods.starts import _is_as_good
from ladle_engine.progress import StepDone
from tests.unit.engine.test_cached_outputs import WithoutLogits
from tests.unit.engine.toy import Interrupted, ToyTask, plain_net, write_checkpoints

FAR = {"steps": 2, "learning_rate": 50.0, "start": "auto"}
"""Training that ruins whatever it starts from."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five checkpoints, of which the fourth is by far the best: the others lie far from it."""
    write_checkpoints(tmp_path / "checkpoints", plain_net, spread=1.0)
    good = tmp_path / "checkpoints" / "step-3.safetensors"
    torch.manual_seed(0)
    model, data = plain_net(), ToyTask().open_data(tmp_path, None)  # type: ignore[arg-type]  # it looks at neither
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        loss = ToyTask().loss(model, {"x": data.x, "y": data.y})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert load_file(good).keys() == model.state_dict().keys()
    save_file(model.state_dict(), good)
    return tmp_path


def job(folder: Path, name: str, methods: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Its report."""
    average(
        folder / "checkpoints", folder / "checkpoints", output=folder / name, task=more.pop("task", ToyTask()),
        method_options={"methods": list(methods), "options": methods}, **more,
    )  # fmt: skip
    report: dict[str, Any] = json.loads((folder / name / "report.json").read_text())
    return report


def row_of(report: dict[str, Any], method: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [row for row in report["candidates"] if row["method"] == method]
    return rows[0]


def test_the_fit_split_picks_among_what_the_job_has(folder: Path) -> None:
    report = job(folder, "out", {"greedy-soup": {}, "cached-outputs": {}, "twa": {"start": "auto", "steps": 20}})
    picked = report["details"]["twa"]
    assert list(picked["fit_loss"]) == ["centre", "best", "greedy-soup", "cached-outputs"]
    assert picked["start"] == "best"
    assert picked["examples"] == 32
    for name in ("greedy-soup", "cached-outputs"):
        assert picked["fit_loss"][name] == pytest.approx(row_of(report, name)["fit"]["loss"])
    assert picked["fit_loss"]["best"] == pytest.approx(
        min(checkpoint["fit"]["means"]["loss"] for checkpoint in report["checkpoints"])
    )


@pytest.mark.parametrize(
    ("excess", "picked"),
    [([0.0, 0.0], "centre"), ([0.1, 0.1], "outputs"), ([0.3, -0.2], "centre")],
    ids=["equal", "surely worse", "within one standard error"],
)
def test_a_simpler_start_within_one_standard_error_is_as_good(excess: list[float], picked: str) -> None:
    def known(values: list[float]) -> Evaluation:
        return Evaluation(metrics=ToyTask.metrics, values={"loss": torch.tensor(values * 8, dtype=torch.float64)})

    class Context:
        loss, seed = ToyTask.metrics[0], 0

    lowest, centre = known([1.0, 2.0]), known([1.0 + excess[0], 2.0 + excess[1]])
    found = "centre" if _is_as_good(centre, lowest, Context()) else "outputs"  # type: ignore[arg-type]  # what it reads
    assert found == picked


def test_the_mean_of_checkpoints_far_apart_is_not_picked_and_the_result_is_better_for_it(folder: Path) -> None:
    centre, picked = (
        row_of(job(folder, start, {"twa": {"start": start, "steps": 20}}), "twa") for start in ("centre", "auto")
    )
    assert picked["select"]["loss"] < centre["select"]["loss"]


def test_only_what_the_job_runs_anyway_are_contenders(folder: Path) -> None:
    def contenders(methods: dict[str, dict[str, Any]], **more: Any) -> list[str]:
        report = job(
            folder, f"out-{len(methods)}-{len(more)}", methods | {"twa": {"start": "auto", "steps": 2}}, **more
        )
        return list(report["details"]["twa"]["fit_loss"])

    assert contenders({}) == ["centre", "best"]
    assert contenders({"greedy-soup": {}}) == ["centre", "best", "greedy-soup", "cached-outputs"]
    assert contenders({"greedy-soup": {}}, task=WithoutLogits()) == ["centre", "best", "greedy-soup"]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("twa", {}),
        ("twa", {"rescale": False}),
        ("twa-layerwise", {}),
        ("pca", {"rescale": False}),
        ("psgd", {}),
        ("learned-soup", {}),
        ("random", {"dimensions": 3}),
    ],
    ids=str,
)
def test_what_is_trained_never_loses_to_its_start(folder: Path, method: str, options: dict[str, Any]) -> None:
    report = job(folder, "out", {"uniform": {}, method: FAR | options})
    details = report["details"][method]
    assert details["start"] == "best"
    assert details["fell_back"]
    assert row_of(report, method)["select"]["loss"] == row_of(report, "best")["select"]["loss"]
    assert row_of(report, method)["curve"], "it was trained"


def test_a_learned_soup_starts_from_nothing_with_negative_coefficients(folder: Path) -> None:
    methods: dict[str, dict[str, Any]] = {
        "cached-outputs": {"prior": None},
        "learned-soup": {"start": "auto", "steps": 2},
    }
    report = job(folder, "out", methods)
    (cached,) = row_of(report, "cached-outputs")["coefficients"]
    assert min(cached) < 0
    assert list(report["details"]["learned-soup"]["fit_loss"]) == ["centre", "best"]


def test_a_job_that_dies_after_the_pick_goes_on_from_the_same_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"twa": {"start": "auto", "steps": 20}, "psgd": {"start": "auto", "steps": 4}}
    methods: dict[str, dict[str, Any]] = {"greedy-soup": {}} | options
    expected = job(folder, "whole", methods)
    monkeypatch.setattr("ladle_engine.resume_state.ResumeState.is_due", lambda state: state.folder is not None)

    def stop(event: Any) -> None:
        if isinstance(event, StepDone) and event.method == "twa" and event.stage == "train" and event.step >= 10:
            raise Interrupted

    with pytest.raises(Interrupted):
        job(folder, "out", methods, state_dir=folder / "state", progress=stop)
    resumed = job(folder, "out", methods, state_dir=folder / "state")
    assert resumed["details"] == expected["details"]
    assert [row["coefficients"] for row in resumed["candidates"]] == [
        row["coefficients"] for row in expected["candidates"]
    ]
