"""A plug-in that `ladle task new` wrote: installed by pip, listed, and run by the command through the real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tests.polling import DEADLINE_S
from tests.tasks.doors import PROGRAM

NAME = "iris-like"


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the plug-in is installed, in a folder of its own."""
    folder = tmp_path_factory.mktemp("plug-in")
    run(*PROGRAM, "task", "new", NAME, cwd=folder)
    site = folder / "site"
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "install", *options, "--target", str(site), f"./{NAME}", cwd=folder)
    return {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return x, (x[:, :3] + 0.3 * x[:, 1:]).argmax(axis=1)


def train(folder: Path) -> None:
    folder.mkdir()
    x, y = map(torch.from_numpy, examples(400, seed=0))
    torch.manual_seed(0)
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(6):
        for rows in torch.randperm(len(x)).split(20):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
        save_file(model.state_dict(), folder / f"epoch-{epoch}.safetensors")
    (folder / "config.json").write_text(json.dumps({"ladle_task": NAME}))


def test_it_is_listed_and_runs_a_job(installed: dict[str, str], tmp_path: Path) -> None:
    listed = run(*PROGRAM, "tasks", "--json", cwd=tmp_path, **installed, XDG_STATE_HOME=str(tmp_path / "none"))
    (task,) = [each for each in json.loads(listed) if each["name"] == NAME]
    assert task["metrics"] == ["accuracy", "loss"]
    train(tmp_path / "run")
    x, y = examples(300, seed=1)
    np.savez(tmp_path / "val.npz", x=x, y=y)
    run(
        *PROGRAM, "run", "run", "val.npz", "--results", "results", "--name", "made", "--method", "twa",
        "--method-option", "steps=10", cwd=tmp_path, **installed,
        XDG_STATE_HOME=str(tmp_path / "s"), TMPDIR="/tmp",
    )  # fmt: skip
    (report_file,) = (tmp_path / "results").rglob("report.json")
    report = json.loads(report_file.read_text())
    assert report["task"] == NAME
    model = network()
    model.load_state_dict(load_file(report_file.parent / "model.safetensors"))
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:150]
    with torch.no_grad():
        logits = model(torch.from_numpy(x)[chosen])
    winner = next(row["select"] for row in report["candidates"] if row["method"] == report["winner"])
    labels = torch.from_numpy(y)[chosen]
    assert winner["accuracy"] == pytest.approx(float((logits.argmax(dim=1) == labels).float().mean()), abs=1e-4)
    assert winner["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-4)
