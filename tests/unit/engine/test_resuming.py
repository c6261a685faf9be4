"""A job that dies within a training run goes on from what it saved, and ends with the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ladle_engine import average
from ladle_engine.resume_state import ResumeState
from tests.unit.engine.toy import Interrupted, ToyTask, plain_net, write_checkpoints

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw, learned prior, averaged theta": ("twa", {"averaged_fraction": 0.6}),
    "adamw, given prior, last theta": ("twa", {"prior": 0.5, "averaged_fraction": 0.0, "schedule": "cosine"}),
    "sgd": ("twa", {"optimiser": "sgd", "learning_rate": 0.05, "groups": "layers", "shared": False}),
    "sharpness-aware": ("twa", {"sam_radius": 0.3}),
    "lbfgs": ("twa", {"optimiser": "lbfgs", "passes": 20, "groups": "layers"}),
    "shared and by layer": ("twa-layerwise", {"averaged_fraction": 0.6}),
    "gram-schmidt": ("twa-gram-schmidt", {"groups": "tensors"}),
    "convex": ("learned-soup", {"groups": "layers", "averaged_fraction": 0.6}),
    "p-sgd": ("psgd", {"groups": "layers", "steps": 40}),
    "random": ("random", {"dimensions": 4, "groups": "layers", "prior": "learned"}),
    "random, from a greedy soup": ("random", {"dimensions": 4, "start": "greedy-soup"}),
    "from a picked start": ("twa", {"start": "auto"}),
    "random, drawn anew": ("random", {"dimensions": 4, "groups": "layers", "redraw": True}),
}


class Saves:
    """What training saves, at every chance that it has; with `dies_at`, the process dies right after that save."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: int | None = None) -> None:
        self.after: list[int] = []
        """Steps (or passes) that had been trained, for each save."""
        save = ResumeState.save

        def watched(state: ResumeState, key: str, value: Mapping[str, Any]) -> None:
            save(state, key, value)
            if key.startswith("train-"):
                self.after.append(len(value["losses"]))
                if len(self.after) - 1 == dies_at:
                    raise Interrupted

        monkeypatch.setattr(ResumeState, "save", watched)
        monkeypatch.setattr(ResumeState, "is_due", lambda state: True)


@pytest.mark.parametrize("case", CASES)
def test_a_job_that_dies_within_training_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    method, options = CASES[case]
    options = options if "passes" in options else {"steps": 20} | options
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)

    def run(name: str) -> tuple[dict[str, Any], int]:
        """What was chosen, with the curve, and how many gradients it took."""
        task = ToyTask(plain_net)
        average(
            folder, folder, output=tmp_path / "outs" / name, task=task, method=method,
            method_options=options, state_dir=tmp_path / "states" / name.partition(" ")[0],
        )  # fmt: skip
        report, saved = (
            json.loads((tmp_path / "outs" / name / file).read_text()) for file in ("report.json", "coefficients.json")
        )
        (curve,) = (row["curve"] for row in report["candidates"] if row["method"] == method)
        return {
            **saved["candidates"][method],
            "curve": curve,
            "course": report["training"].get(method),
        }, task.losses_taken

    with monkeypatch.context() as patched:
        saves = Saves(patched)
        expected, gradients = run("whole")
    assert (expected["course"] is None) == (method == "random"), "whose directions are no checkpoints"
    steps = saves.after
    assert len(steps) >= 3, steps
    for number in sorted({0, 1, len(steps) // 2, len(steps) - 2, len(steps) - 1}):
        with monkeypatch.context() as patched:
            Saves(patched, dies_at=number)
            with pytest.raises(Interrupted):
                run(f"died-{number}")
        resumed, again = run(f"died-{number} resumed")
        assert resumed == expected, f"saved after {steps[number]}"
        per_step = 2 if case == "sharpness-aware" else 1
        saved_gradients = steps[number] * (4 if case == "lbfgs" else per_step)
        assert gradients - again == saved_gradients, "and only what was left was trained"
