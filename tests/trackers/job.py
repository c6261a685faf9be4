"""A job as trackers are told of it: its events, its result, and the process that tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_contracts import CandidateResult, CandidateScored, CheckpointsFound, MemoryPlanned, StageStarted, StepDone

NAMES = ("step-100", "<img src=x onerror=alert(1)>")
EVENTS = (
    CheckpointsFound(names=NAMES, num_parameters=10, dtype="float32", task="image-classification"),
    MemoryPlanned(placement="replicated", precision="float32", parts={}, available_bytes=1, reason="r"),
    StageStarted(stage="train", method="twa", total=2),
    StepDone(stage="train", method="twa", step=1, total=2, loss=0.5),
    StepDone(stage="train", method="twa", step=2, total=2, loss=float("nan")),
    StepDone(stage="train", method="twa", step=2, total=2, loss=0.25),
    CandidateScored(candidate=CandidateResult(method="best", label="best", select={"accuracy": 0.9}, gain=0.0)),
    CandidateScored(
        candidate=CandidateResult(
            method="twa",
            label="twa",
            select={"accuracy": 0.95},
            fit={"accuracy": 0.97},
            gain=0.05,
            gain_low=0.01,
            gain_high=0.09,
        )
    ),
)
SEEN = {"alone_examples": 260, "average_examples": 260}
REPORT: dict[str, Any] = {
    "format": 1,
    "winner": "twa",
    "metric": {"name": "accuracy", "higher_is_better": True},
    "task": "image-classification",
    "gain": {"value": 0.05, "low": 0.01, "high": 0.09},
    "candidates": [
        {
            "method": "best", "label": "best", "select": {"accuracy": 0.9}, "fit": {}, "gain": 0.0, "gain_low": 0.0,
            "gain_high": 0.0, "sets": {}, "coefficients": [[1.0, 0.0]], "groups": ["model"], "curve": [],
            "seconds": 1.0,
        },
        {
            "method": "twa", "label": "twa", "select": {"accuracy": 0.95}, "fit": {"accuracy": 0.97}, "gain": 0.05,
            "gain_low": 0.01, "gain_high": 0.09, "sets": {}, "coefficients": [[0.25, 0.75], [0.5, 0.5]],
            "groups": ["body", "head"], "curve": [], "seconds": 1.0,
        }
    ],
    "checkpoints": [{"name": name, "step": 100.0 * (index + 1)} for index, name in enumerate(NAMES)],
    "merge_curve": {
        "metric": "accuracy",
        "points": [
            {"checkpoint": NAMES[0], "step": 100, "alone": 0.9, "average": 0.9, "averaged": 1, **SEEN},
            {"checkpoint": NAMES[1], "step": 200, "alone": 0.91, "average": None, "averaged": 2, **SEEN},
        ],
    },
    "training": {"twa": {"steps": [0, 2], "loss": [0.6, 0.25], "coefficients": [[0.5, 0.5], [0.4, 0.6]]}},
    "num_parameters": 10,
    "splits": {"fit": 240, "select": 260, "fit_judged": 240, "seed": 0},
    "geometry": {"distances": [[0, 1], [1, 0]], "cosines": [[1, 0], [0, 1]], "order": list(NAMES)},
    "settings": {},
    "warnings": [],
}  # fmt: skip
SETTINGS = {"method.name": "twa", "seed": 3}


def write_events(path: Path) -> None:
    path.write_text("".join(event.model_dump_json() + "\n" for event in EVENTS).replace(":NaN", ":null"))


def write_result(folder: Path) -> None:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(REPORT))
    (folder / "report.html").write_text("<!doctype html><title>A report</title>")
    (folder / "coefficients.json").write_text("{}")


def run_request(folder: Path, **fields: Any) -> dict[str, Any]:
    return {
        "project": "digits", "name": "my-run-7", "id": "job7", "folder": str(folder), "settings": SETTINGS,
        "tags": ["team=blue"], **fields,
    }  # fmt: skip


def tell(
    tracker: str, home: Path, variables: Mapping[str, str], *, word: Mapping[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """One attempt from its beginning to its end, in the process that the agent starts."""
    events, result, told = home / "events.jsonl", home / "result", home / "trackers"
    if not result.exists():
        write_events(events)
        write_result(result)
    said = [run_request(told), word or {"ok": True, "result": str(result)}]
    return subprocess.run(
        [sys.executable, "-m", "ladle_worker.track", str(events), tracker],
        input="".join(json.dumps(line) + "\n" for line in said),
        env={**os.environ, **variables},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=600,
    )
