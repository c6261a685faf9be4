"""Refuses what a job would refuse before it reads any weights, by the same code: `python -m ladle_worker.precheck`.

Reads `{"spec": JobSpec, "results": folder}` from stdin. The last line of stdout is `{"ok": true}`, or `{"ok": false,
"reason": ..., "message": ...}` as in an attempt's outcome; stderr is what the job's log would be.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ladle_contracts import JobSpec
from ladle_worker.launch import RANK_VARIABLES


def main() -> None:
    request = json.load(sys.stdin)
    os.environ.update({name: value for name, value in RANK_VARIABLES.items() if name not in os.environ})
    told = answer(JobSpec.model_validate_json(json.dumps(request["spec"])), Path(request["results"]))
    print(json.dumps(told), flush=True)
    # A plug-in may print once more while Python ends, or have a thread that never does.
    os._exit(0)


def answer(spec: JobSpec, results: Path) -> dict[str, Any]:
    """The outcome of a job that has not begun."""
    # After the variables are set, which libraries read when they are imported.
    from ladle_engine.average import precheck
    from ladle_worker.convert import average_arguments
    from ladle_worker.failure import failure_of, log_failure

    try:
        precheck(
            Path(spec.ckpt_dir).resolve(),
            spec.with_val_sets(lambda _, path: Path(path).resolve()),
            base_model=Path(spec.adapters.base_model).resolve() if spec.adapters.base_model else None,
            train_set=Path(spec.train_set.path).resolve() if spec.train_set else None,
            output=results / (spec.output.name or f".ladle-precheck-{os.getpid()}"),
            **average_arguments(spec),
        )
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        log_failure(failure, error)
        return {"ok": False, "reason": failure.reason, "message": failure.message}
    return {"ok": True}


if __name__ == "__main__":
    main()
