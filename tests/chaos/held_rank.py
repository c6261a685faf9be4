"""The real rank, but it can be held when a stage begins: `LADLE_RANK_MODULE` of the chaos suite.

A rank may write only into its own folders and inherits no variables of ours. So the request to hold is a file beside
the data (`holds/<moment>`), and the answer is one in the attempt's folder (`reached-<moment>`).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ladle_engine import resume_state
from ladle_worker import rank, told

HOLDS = "holds"
LONGEST_S = 120.0
"""A held rank goes on by itself if whoever holds it is gone."""


def main(attempt_folder: str) -> int:
    folder = Path(attempt_folder)
    holds = Path(json.loads((folder / "job.json").read_text())["ckpt_dir"]).parent / HOLDS
    # Every step is saved, so that a killed rank resumes in the middle of training.
    resume_state.ResumeState.is_due = lambda self: self._folder is not None  # type: ignore[method-assign]
    original = told.event_body

    def event_body(event: Any) -> Any:
        body = original(event)
        if body.kind == "stage":
            hold(holds, folder, f"{body.stage}-{body.method or ''}")
        return body

    told.event_body = event_body
    status = rank.main(attempt_folder)
    hold(holds, folder, "outcome-")
    return status


def hold(holds: Path, folder: Path, moment: str) -> None:
    """Stops for as long as there is a file `holds/<moment>`."""
    if not (holds / moment).exists():
        return
    (folder / f"reached-{moment}").touch()
    deadline = time.monotonic() + LONGEST_S
    while (holds / moment).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
