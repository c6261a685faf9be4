"""The Python snippets of the README and of some pages run as they stand."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.builders import make_checkpoints, make_val_set
from tests.polling import DEADLINE_S

REPOSITORY = Path(__file__).parents[2]


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)


IN_PROCESS = [
    *(text for text in snippets("README.md") if "ladle_engine" in text),
    *snippets("docs/engine.md"),
]
"""Those that need no service; `tests/e2e` and `tests/integration/test_api_docs.py` have the others."""


def test_there_are_snippets_of_both_pages() -> None:
    assert len(IN_PROCESS) >= 3


@pytest.mark.parametrize("snippet", IN_PROCESS, ids=range(len(IN_PROCESS)))
def test_a_snippet_runs(snippet: str, tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "path/to/checkpoints")
    make_val_set(tmp_path / "path/to/val.npz")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, env=dict(os.environ), capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_functions_of_a_notebook_run(tmp_path: Path) -> None:
    (tmp_path / "runs/mine").mkdir(parents=True)
    for number in range(3):
        torch.manual_seed(number)
        save_file(torch.nn.Linear(4, 3).state_dict(), tmp_path / f"runs/mine/step-{number}.safetensors")
    (snippet,) = snippets("docs/tasks/function.md")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, env=dict(os.environ), capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "better-model" / "model.safetensors").exists()


def test_the_head_stage_is_averaged_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine/head").mkdir(parents=True)
    for number in range(3):
        torch.manual_seed(number)
        save_file(torch.nn.Linear(4, 3).state_dict(), tmp_path / f"runs/mine/head/step-{number}.safetensors")
    (snippet,) = (text for text in snippets("docs/head-stage.md") if "ladle_engine" in text)
    inputs, labels = torch.randn(60, 4), torch.arange(60) % 3
    made: dict[str, Any] = {
        "model": torch.nn.Linear(4, 3),
        "loss": lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        "val": torch.utils.data.TensorDataset(inputs[:30], labels[:30]),
        "train": torch.utils.data.TensorDataset(inputs[30:], labels[30:]),
    }
    exec(textwrap.dedent(snippet), made)
    assert {candidate.method for candidate in made["outcome"].candidates} == {"best", "twa"}
    assert (tmp_path / "better" / "model.safetensors").exists()


def test_the_metrics_of_a_task_of_ones_own_are_right() -> None:
    (snippet,) = (text for text in snippets("docs/tasks/your-own.md") if "exp_ratio" in text)
    made: dict[str, Any] = {}
    exec(snippet, made)
    values = {
        name: torch.tensor([2.0, 4.0], dtype=torch.float64) for name in ("nll", "tokens", "hits", "found", "true")
    }
    all_once = torch.ones(1, 2, dtype=torch.float64)
    found = {metric.name: float(metric.of(values, all_once)[0]) for metric in made["metrics"]}
    assert found == pytest.approx({"perplexity": math.e, "f1": 1.0, "loss": 1.0})
