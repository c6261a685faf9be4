"""Metrics that training left beside its checkpoints. Those of real tools are in `test_tools_folders.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine import combine_checkpoints, discover
from ladle_engine.checkpoints.metrics_beside import metrics_beside


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        torch.save({"state_dict": {"w": torch.full((3,), float(number))}, "epoch": number}, folder / name)
    return folder


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    found = discover(folder)
    return {name: dict(each) for name, each in metrics_beside(found.checkpoints, found.folder).metrics.items()}


def timm(folder: Path) -> Path:
    """As timm's `train.py` leaves it: `CheckpointSaver`, `update_summary` and `args.yaml`."""
    write(folder, "checkpoint-8.pth.tar", "checkpoint-9.pth.tar", "checkpoint-10.pth.tar")
    for name in ("last", "model_best"):
        (folder / f"{name}.pth.tar").write_bytes((folder / "checkpoint-10.pth.tar").read_bytes())
    rows = [f"{epoch},0.{epoch},0.5{epoch},{70 + epoch}.25,0.001" for epoch in range(11)]
    (folder / "summary.csv").write_text("\n".join(["epoch,train_loss,eval_loss,eval_top1,lr", *rows]))
    (folder / "args.yaml").write_text("model: resnet18\nnum_classes: 10\n")
    return folder


def test_timms_summary_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    folder = timm(tmp_path / "20260101-120000-resnet18-224")
    assert metrics(folder) == {
        f"checkpoint-{epoch}.pth.tar": {"eval_loss": float(f"0.5{epoch}"), "eval_top1": 70.25 + epoch}
        for epoch in (8, 9, 10)
    }
    assert discover(folder).doubt is None


def test_timms_arguments_are_copied_so_that_the_result_is_recognised_too(tmp_path: Path) -> None:
    output = combine_checkpoints(timm(tmp_path / "in"), output=tmp_path / "out")
    assert (output / "args.yaml").read_text() == "model: resnet18\nnum_classes: 10\n"
    assert not (output / "summary.csv").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epoch=3-val_loss=0.31", {"val_loss": 0.31}),
        ("epoch=3-step=100-val/acc=0.5".replace("/", "_"), {"val_acc": 0.5}),
        ("e9_acc_93", {"acc": 93.0}),
        ("step_3_val_loss_1e-05", {"val_loss": 1e-05}),
        ("checkpoint-500", {}),
        ("step=3-v1", {}),
    ],
)
def test_a_metric_in_the_name_is_read(tmp_path: Path, name: str, expected: dict[str, float]) -> None:
    write(tmp_path, f"{name}.pt", "epoch=1.pt")
    assert metrics(tmp_path)[f"{name}.pt"] == expected


def test_results_in_a_checkpoints_own_folder_are_its_own(tmp_path: Path) -> None:
    for step in (1, 2):
        folder = tmp_path / f"step_{step}"
        folder.mkdir()
        save_file({"w": torch.full((3,), float(step))}, folder / "model.safetensors")
        results = {"eval_accuracy": 0.5 * step, "epoch": 3, "eval_runtime": 9, "note": "x", "nan": float("nan")}
        (folder / "all_results.json").write_text(json.dumps(results))
    (tmp_path / "all_results.json").write_text('{"eval_accuracy": 0.99}')
    assert metrics(tmp_path) == {"step_1": {"eval_accuracy": 0.5}, "step_2": {"eval_accuracy": 1.0}}


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "null", '{"log_history": 3}', '{"log_history": [3, {"step": "x"}]}']
)
def test_what_is_broken_says_nothing(tmp_path: Path, content: str) -> None:
    write(tmp_path, "checkpoint-1.pt", "checkpoint-2.pt")
    for name in ("trainer_state.json", "all_results.json", "summary.csv", "metrics.csv"):
        (tmp_path / name).write_text(content)
    assert metrics(tmp_path) == {"checkpoint-1.pt": {}, "checkpoint-2.pt": {}}


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "checkpoint-1.pt", "checkpoint-2.pt")
    (tmp_path / "summary.csv").write_text("epoch,eval_loss\n1,0.5\n")
    (folder / "summary.csv").symlink_to(tmp_path / "summary.csv")
    assert metrics(folder) == {"checkpoint-1.pt": {}, "checkpoint-2.pt": {}}
