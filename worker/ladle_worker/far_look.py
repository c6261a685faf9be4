"""Looks what a job with far files will read, confined as a rank: `python -m ladle_worker.far_look PLAN REQUEST`.

It opens the job as the ranks will, and asks the process that started it for bytes: a line of JSON on stdout for each
question, and a line on stdin when they are here. So whoever has the network and the credentials parses no file of a
stranger's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_worker.confinement.apply import confine
from ladle_worker.confinement.plan import Plan


def main(plan: str, request: str) -> int:
    status = confine(Plan.load(Path(plan)))
    if status is not None:
        return status
    answers, questions = sys.stdin, os.fdopen(os.dup(1), "w")
    # A task may print.
    os.dup2(2, 1)
    _look(json.loads(Path(request).read_text()), Asking(answers, questions))
    return 0


def _look(job: dict[str, Any], asking: Asking) -> None:
    from ladle_contracts import JobSpec
    from ladle_engine.average import precheck
    from ladle_engine.storage.far.presence import installed
    from ladle_worker.boundary import confine_reading
    from ladle_worker.convert import average_arguments
    from ladle_worker.failure import failure_of

    spec = JobSpec.read(json.dumps(job["spec"]))
    confine_reading(job["roots"])
    try:
        with installed(asking):
            precheck(
                job["ckpt_dir"],
                job["val_set"],
                base_model=job["base_model"],
                train_set=job["train_set"],
                output=job["staging"],
                commit=False,
                **average_arguments(spec),
            )
    except Exception as error:
        # The ranks will meet it too, and tell.
        print(failure_of(error) or repr(error), file=sys.stderr)


class Asking:
    """The engine's source of far bytes: the process at the other end of the pipes."""

    def __init__(self, answers: Any, questions: Any) -> None:
        self._answers = answers
        self._questions = questions
        self._lock = threading.Lock()

    def want(self, path: Path, start: int, stop: int | None) -> None:
        self._ask({"want": [str(path), start, stop]})

    def parts(self, path: Path) -> None:
        return None

    def fetch(self, wanted: Mapping[Path, Any]) -> None:
        self._ask({"fetch": {str(path): parts for path, parts in wanted.items()}})

    def refuse_changed(self) -> None:
        return

    def record(self) -> dict[str, str]:
        return {}

    def _ask(self, question: dict[str, Any]) -> None:
        with self._lock:
            print(json.dumps(question), file=self._questions, flush=True)
            if not self._answers.readline():
                # Whoever asked has said why.
                os._exit(1)


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2])
    sys.stderr.flush()
    os._exit(status)
