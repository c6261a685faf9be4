"""The order that people read in names, and what happens where names allow two."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ladle_engine import CheckpointError, Outcome, average, combine_checkpoints, discover
from ladle_engine.checkpoints.order import arrange
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.progress import CheckpointsFound, ProgressEvent, Warned
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

RIGHT_ORDERS = {
    "Lightning": "epoch=9-step=10.ckpt, epoch=9-step=10-v1.ckpt, epoch=9-step=10-v2.ckpt, epoch=10-step=11.ckpt",
    "Lightning with last": "epoch=1-step=100.ckpt, epoch=2-step=200.ckpt, last.ckpt, last-v1.ckpt",
    "Lightning with a metric": "epoch=05-val_acc=0.93.ckpt, epoch=06-val_acc=0.95.ckpt, epoch=10-val_acc=0.91.ckpt",
    "versions": "model, model-v1, model-v2, model-v10",
    "copies": "model.pt, model (1).pt, model (2).pt, model (10).pt",
    "parts of epochs": "epoch_0.25, epoch_0.5, epoch_0.75, epoch_1.0, epoch_10.0",
    "scientific": "checkpoint-1e3, checkpoint-2e3, checkpoint-1e4",
    "thousands and millions": "step900k, step1M, step1.5M, step2M",
    "marks between thousands": "step_900_000, step_1_000_000, step_1_000_500",
    "commas between thousands": "checkpoint-900, checkpoint-1,000, checkpoint-1,000,000",
    "a number beside last": "epoch-1.pt, epoch-2.pt, vit_b_16-last.pt",
    "billions of tokens": "model-tokens4B, model-tokens10B",
    "negative metric without a word": "best_model_5_-0.31, best_model_6_-2, best_model_7_-0.3",
    "negative metric": "epoch=9-val_loss=0.31, epoch=10-val_loss=-1",
    "small metric": "epoch=5-val_loss=1e-05, epoch=6-val_loss=9e-06",
    "whole metric": "e9_acc_93, e10_acc_95, e11_acc_94",
    "metric first": "acc_93_epoch_2, acc_92_epoch_10",
    "metric with a digit": "top1_93_epoch2, top1_92_epoch10",
    "fairseq updates": "checkpoint_1_900.pt, checkpoint_1_1000.pt, checkpoint_2_1900.pt",
    "fairseq epochs": "checkpoint2.pt, checkpoint10.pt, checkpoint_best.pt, checkpoint_last.pt",
    "fairseq both": "checkpoint_1_900.pt, checkpoint1.pt, checkpoint_2_1900.pt, checkpoint2.pt",
    "Composer": "ep0-ba900-rank0.pt, ep1-ba1000-rank0.pt, ep10-ba10000-rank0.pt, latest-rank0.pt",
    "Hugging Face": "checkpoint-500, checkpoint-1000, checkpoint-10000",
    "OLMo": "step1000-unsharded, step2000-unsharded, step10000-unsharded, latest-unsharded",
    "timm": "checkpoint-2.pth.tar, checkpoint-12.pth.tar, model_best.pth.tar, last.pth.tar",
    "open_clip": "epoch_2.pt, epoch_12.pt, epoch_latest.pt",
    "ultralytics": "epoch0.pt, epoch10.pt, best.pt, last.pt",
    "mmdetection by epoch": "epoch_2.pth, epoch_12.pth, latest.pth",
    "mmdetection by iteration": "iter_4000.pth, iter_40000.pth, latest.pth",
    "detectron2": "model_0004999.pth, model_0009999.pth, model_final.pth",
    "kohya by epoch": "name-000010.safetensors, name-000020.safetensors, name.safetensors",
    "kohya by step": "name-step00000500.safetensors, name-step00001000.safetensors, name.safetensors",
    "guided-diffusion": "ema_0.9999_050000.pt, ema_0.9999_100000.pt",
    "CycleGAN": "4_net_G.pth, 10_net_G.pth, 100_net_G.pth, latest_net_G.pth",
    "DeepSpeed": "global_step100, global_step1000",
    "steps counted anew in each epoch": "epoch0_iter100, epoch0_iter900, epoch1_iter100, epoch1_iter900",
    "word after the number": "1000steps.pt, 2000steps.pt, 10000steps.pt",
    "dates": "2024-05-01_10-00-00, 2024-05-01_11-00-00, 2024-12-01_00-00-00",
    "dates without separators": "run-20240501-101010, run-20240501-111010, run-20241201-000000",
    "sweep over seeds": "seed_3, seed_12",
    "sweep of runs": "run-0, run-2, run-10",
    "sweep over settings": "lr1e-4_wd0.1, lr3e-4_wd0.01, lr1e-3_wd0.1",
    "bare numbers": "0.pt, 2.pt, 10.pt",
    "architecture in the name": "resnet18_cifar10_epoch_9.pth, resnet18_cifar10_epoch_10.pth",
    "architecture beside a bare number": "vit_b_16-2.pt, vit_b_16-10.pt",
    "a hash": "a1b2c3d4-epoch-2.pt, 9f8e7d6c-epoch-10.pt",
    "spaces and capitals": "Epoch 1.PT, epoch 2.pt, EPOCH 10.pt",
    "another script": "模型-9.pt, 模型-10.pt",
    "superscripts": "7, 7², 8",
    "the beginning": "init.pt, epoch-1.pt, epoch-2.pt",
    "before fine-tuning": "pretrained.pt, epoch-1.pt, epoch-2.pt",
    "model soups": "zeroshot.pt, checkpoint_1.pt, checkpoint_2.pt",
    "epoch and step in one letter each": "e1s900.pt, e1s1000.pt, e2s100.pt",
}


def in_order(names: list[str], how: str = "auto") -> tuple[list[str], list[float | None], str | None]:
    mixed = random.Random(len(names)).sample(names, len(names))
    found = arrange([Checkpoint(name=name, step=None, files=(), format="pickle") for name in mixed], how)
    return [each.name for each in found.checkpoints], [each.step for each in found.checkpoints], found.doubt


@pytest.mark.parametrize("names", RIGHT_ORDERS.values(), ids=RIGHT_ORDERS)
def test_names_are_ordered_as_people_read_them(names: str) -> None:
    expected = names.split(", ")
    found, _, doubt = in_order(expected)
    assert found == expected
    assert doubt is None


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        ("epoch=1-step=100, epoch=2-step=200, last", [100, 200, None]),
        ("step900k, step1.5M", [900_000, 1_500_000]),
        ("epoch_0.5, epoch_1.0", [0.5, 1]),
        ("checkpoint_1_900, checkpoint_2_1900", [900, 1900]),
        ("run-0, run-1", [None, None]),
        ("2024-05-01, 2024-05-02", [None, None]),
        ("stage1-step100, stage1-step200", [100, 200]),
    ],
)
def test_a_step_is_a_number_that_counts_time(names: str, steps: list[float | None]) -> None:
    assert in_order(names.split(", "))[1] == steps


AMBIGUOUS = {
    "epochs and steps": ("epoch-1, epoch-2, step-500", "`name` gives", "`modified` gives"),
    "kohya's epochs and steps": ("name-000010, name-step00000500", "`name` gives", "`modified` gives"),
    "steps against epochs": (
        "epoch=1-step=900, epoch=2-step=100",
        "`epoch` gives `epoch=1-step=900`, `epoch=2-step=100`",
        "`step` gives `epoch=2-step=100`, `epoch=1-step=900`",
    ),
    "two numbers without a word": (
        "checkpoint_2_100, checkpoint_1_900",
        "`epoch` gives `checkpoint_1_900`, `checkpoint_2_100`",
        "`step` gives `checkpoint_2_100`, `checkpoint_1_900`",
    ),
    "stages": ("stage1-step900, stage2-step100", "`epoch` gives `stage1-step900`", "`step` gives `stage2-step100`"),
}


@pytest.mark.parametrize(("names", "one", "other"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_names_that_allow_two_orders_are_told_with_both(names: str, one: str, other: str) -> None:
    doubt = in_order(names.split(", "))[2]
    assert doubt is not None
    assert one in doubt
    assert other in doubt
    assert "Choose one with `order=`" in doubt


def folder_of(folder: Path, *names: str) -> Path:
    """Files whose only weight is their number, from 1."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, start=1):
        save_file({"w": torch.tensor([float(number)])}, folder / f"{name}.safetensors")
    return folder


def test_the_order_can_be_chosen(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "epoch=1-step=900", "epoch=2-step=100")
    for name, seconds in (("epoch=1-step=900", 2000), ("epoch=2-step=100", 1000)):
        os.utime(folder / f"{name}.safetensors", (seconds, seconds))
    first = {order: discover(folder, order=order).names[0] for order in ("epoch", "step", "name", "modified")}
    assert first == {
        "epoch": "epoch=1-step=900.safetensors",
        "step": "epoch=2-step=100.safetensors",
        "name": "epoch=1-step=900.safetensors",
        "modified": "epoch=2-step=100.safetensors",
    }
    assert discover(folder, order="modified").order == "time of the last change"


def test_an_order_that_does_not_exist_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "red", "green")
    with pytest.raises(ValueError, match="`order` must be one of"):
        discover(folder, order="newest")
    with pytest.raises(CheckpointError, match="there is none in") as caught:
        discover(folder, order="step")
    assert caught.value.code == "ambiguous-order"


def test_only_what_goes_by_the_order_is_refused_when_it_is_open(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "epoch-1", "epoch-2", "step-500")
    for needing in ({"last": 2}, {"weights": [0.5, 0.25, 0.25]}):
        with pytest.raises(CheckpointError, match="must give one order") as caught:
            combine_checkpoints(folder, output=tmp_path / "out", **needing)  # type: ignore[arg-type]
        assert caught.value.code == "ambiguous-order"
    seen: list[ProgressEvent] = []
    output = combine_checkpoints(folder, output=tmp_path / "out", progress=seen.append)
    assert load_file(output / "model.safetensors")["w"].item() == 2.0
    told = [event.message for event in seen if isinstance(event, Warned)]
    assert len(told) == 1
    assert "They are taken by name." in told[0]


@pytest.mark.parametrize(("method", "needs"), [("last-k", True), ("ema", True), ("uniform", False), ("auto", False)])
def test_a_method_that_goes_by_the_order_needs_one(tmp_path: Path, method: str, needs: bool) -> None:
    made = write_checkpoints(tmp_path / "in", plain_net, count=3)
    for checkpoint, name in zip(made.checkpoints, ("epoch-1", "epoch-2", "step-500"), strict=True):
        checkpoint.files[0].rename(made.folder / f"{name}.safetensors")

    def job(order: str) -> Outcome:
        options = {"methods": ["uniform", "last-k"]} if method == "auto" else {}
        return average(
            made.folder,
            made.folder,
            output=tmp_path / order,
            task=ToyTask(plain_net),
            method=method,
            method_options=options,
            order=order,
        )

    if needs:
        with pytest.raises(CheckpointError, match="must give one order"):
            job("auto")
    else:
        assert any("must give one order" in warning for warning in job("auto").warnings)
    assert job("name").warnings == ()
    assert json.loads((tmp_path / "name" / "report.json").read_text())["settings"]["order"] == "name"


def test_the_order_and_what_it_is_by_are_told_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "epoch=10-step=1100", "epoch=9-step=1000")
    seen: list[ProgressEvent] = []
    combine_checkpoints(folder, output=tmp_path / "out", progress=seen.append)
    (found,) = [event for event in seen if isinstance(event, CheckpointsFound)]
    assert found.order == "epoch and step"
    assert found.names == ("epoch=9-step=1000.safetensors", "epoch=10-step=1100.safetensors")


def test_steps_of_a_trainer_count_before_those_in_names(tmp_path: Path) -> None:
    for name, step in (("checkpoint-500", 500), ("renamed", 700), ("checkpoint-600", None)):
        folder_of(tmp_path / name, "model")
        if step is not None:
            (tmp_path / name / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        save_file({"w": torch.tensor([float(len(name) + (step or 0))])}, tmp_path / name / "model.safetensors")
    found = discover(tmp_path)
    assert found.names == ("checkpoint-500", "checkpoint-600", "renamed")
    (tmp_path / "renamed" / "trainer_state.json").write_text('{"global_step": 7')
    assert discover(tmp_path).names[-1] == "renamed", "half-written: it says nothing"
