"""`diagnose` in jobs of every kind: adapters, narrow types, several validation sets, functions in place of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ladle_engine import average
from tests.builders import make_checkpoints, make_val_set
from tests.unit.engine.lora import OPTIONS, make_sweep, make_tokens
from tests.unit.engine.toy import ToyData, ToyTask, norm_net, plain_net, write_checkpoints


def whole(report: dict[str, Any], count: int) -> dict[str, Any]:
    """The diagnosis of so many checkpoints, with nothing missing."""
    diagnosis: dict[str, Any] = report["diagnosis"]
    assert len(diagnosis["segments"]) == count
    assert sorted(name for basin in diagnosis["basins"] for name in basin) == sorted(
        segment["checkpoint"] for segment in diagnosis["segments"]
    )
    assert all(loss is not None for row in diagnosis["plane"]["loss"] for loss in row)
    assert {"best", "uniform", "winner"} <= diagnosis["plane"]["points"].keys()
    points = report["merge_curve"]["points"]
    assert all(point["alone"] is not None and point["average"] is not None for point in points)
    sizes = {point[key] for point in points for key in ("alone_examples", "average_examples")}
    assert sizes == {report["splits"]["select"]}
    return diagnosis


def report_at(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_adapters_are_diagnosed_at_the_rank_that_is_written(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {"r": 2}, "b": {"r": 4, "lora_alpha": 4}, "c": {"r": 3}}, size=0.05)
    val = make_tokens(tmp_path / "val.npy")
    average(sweep, val, output=tmp_path / "out", method="uniform", task_options=OPTIONS, adapter_rank=2, diagnose=True)
    report = report_at(tmp_path / "out")
    diagnosis = whole(report, 3)
    uniform = report["candidates"][1]
    assert report["splits"]["fit_judged"] == diagnosis["examples"]
    for segment in diagnosis["segments"]:
        assert segment["loss"][0] == pytest.approx(uniform["fit"]["loss"], rel=1e-5), (
            "the centre is the uniform average"
        )


@pytest.mark.parametrize("net", [plain_net, norm_net])
def test_a_job_that_judges_from_the_files_opens_the_directions_again(tmp_path: Path, net: Any) -> None:
    write_checkpoints(tmp_path / "run", net)
    options = {"method": "twa-layerwise", "method_options": {"steps": 6}, "dtype": "bfloat16"}
    average(
        tmp_path / "run",
        tmp_path / "run",
        output=tmp_path / "out",
        task=ToyTask(net, count=128),
        diagnose=True,
        **options,
    )
    diagnosis = whole(report_at(tmp_path / "out"), 5)
    alone = report_at(tmp_path / "out")["checkpoints"]
    for segment, checkpoint in zip(diagnosis["segments"], alone, strict=True):
        if checkpoint["fit"] is not None and checkpoint["fit"]["examples"] == diagnosis["examples"]:
            assert segment["loss"][-1] == pytest.approx(checkpoint["fit"]["means"]["loss"], rel=1e-3)


def test_the_result_is_the_same_with_and_without_a_diagnosis(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", norm_net)
    for name, diagnose in (("with", True), ("without", False)):
        average(
            tmp_path / "run", tmp_path / "run", output=tmp_path / name, task=ToyTask(norm_net), diagnose=diagnose,
            method="twa", method_options={"steps": 6},
        )  # fmt: skip
    for file in ("model.safetensors", "statistics.safetensors", "coefficients.json"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes(), file
    one, other = (report_at(tmp_path / name) for name in ("with", "without"))
    assert one["training"] == other["training"]


def test_of_several_sets_the_curve_has_what_judges(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "run")
    sets = {"one": make_val_set(tmp_path / "one.npz"), "two": make_val_set(tmp_path / "two.npz", 200, 1100)}
    average(tmp_path / "run", sets, output=tmp_path / "out", judge_by="mean", method="uniform", diagnose=True)
    report = report_at(tmp_path / "out")
    whole(report, 4)
    (uniform,) = (row for row in report["candidates"] if row["method"] == "uniform")
    assert report["merge_curve"]["points"][-1]["average"] == pytest.approx(uniform["select"]["accuracy"], abs=1e-12)


def test_functions_are_diagnosed_as_tasks_are(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", plain_net)
    data = ToyData(64)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        return (model(batch[0]) - batch[1]).square().mean(dim=1)

    def metrics(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        return {"near": ((model(batch[0]) - batch[1]).abs() < 0.5).float()[:, 0]}

    average(
        tmp_path / "run", output=tmp_path / "out", model=plain_net, loss=loss, metrics=metrics, method="uniform",
        data=torch.utils.data.TensorDataset(data.x, data.y), metric="near", diagnose=True,
    )  # fmt: skip
    report = report_at(tmp_path / "out")
    whole(report, 5)
    assert report["merge_curve"]["metric"] == "near"
    assert report["diagnosis"]["loss"] == "loss"
