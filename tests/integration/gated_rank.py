"""The real rank, but it saves its state at every step and can be held at a point: `LADLE_RANK_MODULE` of some tests.

The gate's folder stands in a file beside the results: ranks inherit no variables of ours.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_engine import resume_state as state
from ladle_engine.training import trainer as train
from ladle_worker import rank
from ladle_worker.job_folder import AttemptFolder

DEADLINE_S = 240


def main(attempt_folder: str) -> int:
    results = Path(attempt_folder).parents[2]
    # It may be a link, so that it stays what it is while a test does something to the disk of the results.
    gates = (results / "gates").resolve()
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
    tell, write_sealed = AttemptFolder.tell, state.write_sealed

    def told(self: AttemptFolder, outcome: Mapping[str, Any]) -> None:
        hold(gates, "tell")
        tell(self, outcome)

    def sealed(path: Path, content: bytes, kind: str) -> None:
        fail(gates, "state")
        write_sealed(path, content, kind)

    AttemptFolder.tell = told  # type: ignore[method-assign]
    state.write_sealed = sealed  # type: ignore[attr-defined]
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


def fail(gates: Path, name: str) -> None:
    """As a disk fails, where the test put the number of the error into `<name>.errno`."""
    number = gates / f"{name}.errno"
    if number.exists():
        raise OSError(int(number.read_text()), os.strerror(int(number.read_text())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
