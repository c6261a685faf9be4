"""The real rank, but it saves its state at every step and can be held at a point: `LADLE_RANK_MODULE` of some tests.

The gate's folder stands in a file beside the results: ranks inherit no variables of ours.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

from ladle_engine import resume_state as state
from ladle_engine.training import trainer as train
from ladle_worker import rank

DEADLINE_S = 240


def main(attempt_folder: str) -> int:
    results = Path(attempt_folder).parents[2]
    gates = results / "gates"
    state.ResumeState.is_due = lambda self: self._folder is not None  # type: ignore[method-assign]

    original = train.Trainer.loss_and_gradient
    steps = 0

    def held(self: train.Trainer, *arguments: object) -> object:
        nonlocal steps
        steps += 1
        hold(gates, f"train-{steps}")
        return original(self, *arguments)  # type: ignore[arg-type]

    train.Trainer.loss_and_gradient = held  # type: ignore[assignment, method-assign]
    engine = importlib.import_module("ladle_engine.average")
    write_output = engine.write_output

    def written(*arguments: object) -> object:
        hold(gates, "write")
        return write_output(*arguments)

    engine.write_output = written  # type: ignore[attr-defined]
    hold(gates, "start")
    status = rank.main(attempt_folder)
    hold(gates, "outcome")
    return status


def hold(gates: Path, name: str) -> None:
    """Stops where the test put a file `<name>.hold`, until there is `<name>.open`."""
    if not (gates / f"{name}.hold").exists():
        return
    (gates / f"{name}.reached").write_text(str(os.getpid()))
    deadline = time.monotonic() + DEADLINE_S
    while not (gates / f"{name}.open").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
