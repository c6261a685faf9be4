"""A job with the filters of what is ready takes exactly that, also when more has been written since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ladle.watching.looks import look
from ladle.watching.ready import ready_of
from ladle_engine import inspect
from ladle_engine.checkpoints.discover import discover
from ladle_worker.convert import inspection


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))}


def trainer(folder: Path, number: int, whole: bool) -> Path:
    """As transformers' Trainer: a folder for each step, and the root model that is a copy of the last one."""
    for where in (folder / f"checkpoint-{number * 100}", *([folder] if whole else [])):
        where.mkdir(parents=True, exist_ok=True)
        save_file(weights(number), where / "model.safetensors", {"format": "pt"})
        (where / "trainer_state.json").write_text(json.dumps({"global_step": number * 100}))
    return folder / f"checkpoint-{number * 100}" / "model.safetensors"


def lightning(folder: Path, number: int, whole: bool) -> Path:
    """As Lightning below its version folder: the epoch and the step in the name, and a copy that is replaced."""
    below = folder / "version_0" / "checkpoints"
    below.mkdir(parents=True, exist_ok=True)
    path = below / f"epoch={number}-step={number * 50}.ckpt"
    for each in (path, *([below / "last.ckpt"] if whole else [])):
        torch.save({"state_dict": weights(number), "epoch": number, "global_step": number * 50}, each)
    return path


def timm(folder: Path, number: int, whole: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{number}.pth.tar"
    for each in (path, *([folder / "last.pth.tar"] if whole else [])):
        torch.save({"state_dict": weights(number), "epoch": number}, each)
    return path


def loop(folder: Path, number: int, whole: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model_epoch_{number:03d}.pt"
    torch.save(weights(number), path)
    return path


def sweep(folder: Path, number: int, whole: bool) -> Path:
    """Two runs, each with the same steps."""
    for seed, run in enumerate(("run-a", "run-b")):
        (folder / run).mkdir(parents=True, exist_ok=True)
        path = folder / run / f"step-{number}.safetensors"
        save_file(weights(100 * seed + number), path)
    return path


@pytest.mark.parametrize("save", [trainer, lightning, timm, loop, sweep])
def test_a_job_takes_what_was_ready_and_nothing_that_came_later(
    tmp_path: Path, save: Callable[[Path, int, bool], Path]
) -> None:
    folder = tmp_path / "run"
    for number in (1, 2):
        save(folder, number, True)
    unfinished = save(folder, 3, False)
    unfinished.write_bytes(unfinished.read_bytes()[:-9000])
    seen = look(folder)
    ready = ready_of(inspection(inspect(folder)), seen, seen)
    assert len(ready.taken) >= 2
    assert not any(str(unfinished.relative_to(folder)).startswith(name) for name in ready.taken)
    later = save(folder, 4, False)
    later.write_bytes(later.read_bytes()[:500])
    filters: dict[str, Any] = ready.filters({})
    assert sorted(discover(folder, **filters).names) == sorted(ready.taken)
