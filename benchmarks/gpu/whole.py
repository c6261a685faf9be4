"""One whole job, with `auto`: its time by stage, and that what it wrote is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
import whole_job
from ladle_small_cnn import SmallCnn
from measuring import table_lines
from safetensors.torch import load_file
from torch import Tensor

from gpu.jobs import Job, make
from gpu.parts import Found, Setting, require
from ladle_engine import candidate_state, rebuild
from ladle_engine.tasks.examples import split

LOSS_TOLERANCE = 2e-3
"""Relative: the job judged on the device, where convolutions round to TF32."""


def auto_job(setting: Setting) -> Found:
    count, images, width = (3, 512, 8) if setting.small else (8, 2048, whole_job.WIDTH)
    whole_job.CONFIG["width"] = width
    whole_job.make(setting.folder, count, images)
    output = setting.folder / "output"
    if setting.on_gpu:
        # Imports, compiled kernels and cuDNN's plans are there afterwards.
        whole_job.run_job(setting.folder, "twa", setting.device, setting.folder / "untimed", cold=False)
    job = whole_job.run_job(setting.folder, "auto", setting.device, output, cold=False)
    timed = [*job["stages"].items(), ("all", job["seconds"])]
    found = Found(
        says=f"{job['seconds']:.1f} s in all, {job['fit_steps']} steps",
        figures={"checkpoints": count, "images": images, "width": width, **job},
        lines=table_lines(("stage", "s"), ([stage, f"{taken:.2f}"] for stage, taken in timed)),
    )
    setting.keep(found)
    found.lines += ["", _is_rebuilt(setting.folder, output), "", _is_as_good_as_it_says(setting.folder, output, images)]
    other = setting.folder / "batch-norm"
    make(other, "batch-norm")
    Job(net="batch-norm", method="auto", options={}).run(other, setting.device, other / "output")
    found.lines += ["", f"With BatchNorm: {_is_rebuilt(other, other / 'output')}"]
    return found


def _is_rebuilt(folder: Path, output: Path) -> str:
    written = load_file(output / "model.safetensors")
    again = load_file(rebuild(output, folder / "checkpoints", output=folder / "again") / "model.safetensors")
    in_memory = candidate_state(output, folder / "checkpoints")
    require(written.keys() == again.keys() == in_memory.keys(), "a rebuilt model must have the same tensors")
    for name, tensor in written.items():
        require(torch.equal(tensor, again[name]), f"`{name}` of the rebuilt file must be the one written")
        require(torch.equal(tensor, in_memory[name]), f"`{name}` of the rebuilt state must be the one written")
    return f"All {len(written)} tensors of the model are rebuilt bit for bit."


def _is_as_good_as_it_says(folder: Path, output: Path, images: int) -> str:
    """By plain torch on the CPU."""
    report = json.loads((output / "report.json").read_text())
    (winner,) = (each for each in report["candidates"] if each["method"] == report["winner"])
    model = SmallCnn(**whole_job.CONFIG)
    model.load_state_dict(load_file(output / "model.safetensors"))
    model.eval()
    _, select = split(images, 0.5, 0)
    loss, said = _loss(model, folder, select), winner["select"]["loss"]
    require(abs(loss - said) < LOSS_TOLERANCE * said, f"the report says a loss of {said}, but the model's is {loss}")
    return f"`{report['winner']}` won. Its loss on the select split: {loss:.5f} by torch, {said:.5f} in the report."


@torch.no_grad()
def _loss(model: SmallCnn, folder: Path, select: Tensor) -> float:
    images, labels = whole_job.validation_set(folder)
    total = sum(
        float(F.cross_entropy(model(images[part]), labels[part], reduction="sum")) for part in select.split(256)
    )
    return total / len(select)
