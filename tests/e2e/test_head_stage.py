"""The script of docs/head-stage.md, small but with all its parts: training, averaging, judging, recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.polling import DEADLINE_S

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples" / "papers" / "head_stage.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One per length of the head stage."""
    folder = tmp_path_factory.mktemp("evidence")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--seeds", "0", "--threads", "1"],
        env={**os.environ, "LADLE_EVIDENCE_CACHE": str(folder)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<- Ladle returns") == 2, done.stdout
    found: list[dict[str, Any]] = json.loads((folder / "quick" / "head-stage.json").read_text())["runs"]
    return found


def test_the_head_stage_is_averaged_at_both_lengths_and_judged_beside_both_schedules(
    runs: list[dict[str, Any]],
) -> None:
    assert [(run["seed"], run["models"]) for run in runs] == [(0, 8), (0, 12)]
    for run in runs:
        rows = [(row["method"], row.get("trained_on"), row["cost"]["epochs"]) for row in run["rows"]]
        epochs = run["models"] // 2
        assert rows[:3] == [("sgd-whole", None, 8), ("sgd-short", None, 4), ("last", None, epochs)]
        assert ("uniform", "validation part", epochs) in rows
        assert ("twa-layerwise", "validation part", epochs) in rows
        assert rows[-2:] == [("twa", "training part", epochs), ("twa", "training part, 20 steps", epochs)]
        assert sum(bool(row.get("winner")) for row in run["rows"]) == 1


def test_averages_of_the_head_stage_are_better_than_its_last_checkpoint_and_cost_more(
    runs: list[dict[str, Any]],
) -> None:
    for run in runs:
        last = next(row for row in run["rows"] if row["method"] == "last")
        for row in run["rows"]:
            if row["method"] == "twa":
                assert row["test"]["loss"] < last["test"]["loss"], row
                assert row["cost"]["cpu_s"] >= last["cost"]["cpu_s"], row
