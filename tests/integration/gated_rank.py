"""The real rank, but it saves its state at every step and can be held at a point: `LADLE_RANK_MODULE` of some tests.

The gates are files beside the results, because ranks inherit no variables of ours: `tests.integration.gates`.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_engine import resume_state as state
from ladle_engine.evaluation import heats
from ladle_engine.training import trainer as train
from ladle_worker import rank, told
from ladle_worker.job_folder import AttemptFolder
from tests.integration.gates import fail, gates_of, hold

CLOCK_VARIABLE = "LADLE_WALL_CLOCK_S"
"""By how much the clock of a process is wrong: `tests/cluster/wall_clock.c`."""


def main(attempt_folder: str) -> int:
    results = Path(attempt_folder).parents[2]
    # It may be a link, so that it stays what it is while a test does something to the disk of the results.
    gates = (results / "gates").resolve()
    turn_clock(gates)
    job = json.loads((Path(attempt_folder) / "job.json").read_text())
    gates = gates_of(gates, job["spec"]["output"]["name"])
    hold_stages(gates)
    hold_training(gates)
    hold_searching(gates)
    hold_writing(gates)
    fail_states(gates)
    hold(gates, "start")
    status = rank.main(attempt_folder)
    hold(gates, "outcome")
    return status


def hold_stages(gates: Path) -> None:
    """Rank 0, which tells of them: `stage-check` and so on."""
    event_body = told.event_body

    def held(event: Any) -> Any:
        body = event_body(event)
        if body.kind == "stage":
            hold(gates, f"stage-{body.stage}")
        return body

    told.event_body = held


def hold_training(gates: Path) -> None:
    """Every rank at every step: `train-1` and so on."""
    original = train.Trainer.loss_and_gradient
    steps = 0

    def held(self: train.Trainer, *arguments: object) -> object:
        nonlocal steps
        steps += 1
        hold(gates, f"train-{steps}")
        return original(self, *arguments)  # type: ignore[arg-type]

    train.Trainer.loss_and_gradient = held  # type: ignore[assignment, method-assign]


def hold_searching(gates: Path) -> None:
    """Every rank before each generation of a search: `search-0` and so on."""
    original = heats.Heats.order

    def held(self: heats.Heats, candidates: Any, generation: int) -> list[int]:
        hold(gates, f"search-{generation}")
        return original(self, candidates, generation)

    heats.Heats.order = held  # type: ignore[method-assign]


def hold_writing(gates: Path) -> None:
    """Before the model is written, and before its outcome is told: `write` and `tell`."""
    engine = importlib.import_module("ladle_engine.average")
    write_output, tell = engine.write_output, AttemptFolder.tell

    def write_held(*arguments: object) -> object:
        hold(gates, "write")
        return write_output(*arguments)

    def tell_held(self: AttemptFolder, outcome: Mapping[str, Any]) -> None:
        hold(gates, "tell")
        tell(self, outcome)

    engine.write_output = write_held  # type: ignore[attr-defined]
    AttemptFolder.tell = tell_held  # type: ignore[method-assign]


def fail_states(gates: Path) -> None:
    """It saves its state at every step, or fails to: `state`."""
    state.ResumeState.is_due = lambda self: self._folder is not None  # type: ignore[method-assign]
    write_sealed = state.write_sealed

    def sealed(path: Path, content: bytes, kind: str) -> None:
        fail(gates, "state")
        write_sealed(path, content, kind)

    state.write_sealed = sealed  # type: ignore[attr-defined]


def turn_clock(gates: Path) -> None:
    """Starts this process again with a wrong clock, where the test says so in `<host's name>.clock`: variables as
    JSON."""
    path = gates / f"{socket.gethostname()}.clock"
    if path.exists() and CLOCK_VARIABLE not in os.environ:
        environment = {**os.environ, **json.loads(path.read_text())}
        os.execve(
            sys.executable, [sys.executable, "-u", "-m", "tests.integration.gated_rank", *sys.argv[1:]], environment
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
