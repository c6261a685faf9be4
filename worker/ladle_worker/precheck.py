"""Refuses what a job would refuse before it reads any weights, by the same code: `python -m ladle_worker.precheck`.

Reads `{"spec": JobSpec, "results": folder}` from stdin. The last line of stdout is `{"ok": true}`, or `{"ok": false,
"reason": ..., "message": ...}` as in an attempt's outcome, with the folder's `inspection`; stderr is what the job's log
would be.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ladle_contracts import InspectRequest, JobSpec
from ladle_worker.launch.environment import RANK_VARIABLES


def main() -> None:
    request = json.load(sys.stdin)
    os.environ.update({name: value for name, value in RANK_VARIABLES.items() if name not in os.environ})
    spec = JobSpec.model_validate_json(json.dumps(request["spec"]))
    told = {"inspection": inspection_of(spec)} | answer(spec, Path(request["results"]))
    print(json.dumps(told), flush=True)
    # A plug-in may print once more while Python ends, or have a thread that never does.
    os._exit(0)


def inspection_of(spec: JobSpec) -> dict[str, Any] | None:
    """What is in the folder, as JSON. None where that cannot be said: the job says then what is wrong."""
    from ladle_worker.inspect_folder import inspected

    try:
        return inspected(
            InspectRequest(
                ckpt_dir=spec.ckpt_dir,
                checkpoints=spec.checkpoints,
                kind=spec.kind,
                task=spec.task,
                adapters=spec.adapters,
                method=spec.method,
                base=spec.base,
            )
        )
    except Exception as error:
        print(f"the folder was not inspected: {error!r}", file=sys.stderr)
        return None


def answer(spec: JobSpec, results: Path) -> dict[str, Any]:
    """The outcome of a job that has not begun."""
    # After the variables are set, which libraries read when they are imported.
    from ladle_engine.average import precheck
    from ladle_worker.convert import average_arguments
    from ladle_worker.failure import failure_of, log_failure

    try:
        precheck(
            spec.with_ckpt_dirs(lambda _, path: Path(path).resolve()),
            spec.with_val_sets(lambda _, path: Path(path).resolve()),
            base_model=Path(spec.adapters.base_model).resolve() if spec.adapters.base_model else None,
            base=Path(spec.base).resolve() if spec.base else None,
            train_set=Path(spec.train_set.path).resolve() if spec.train_set else None,
            curve_earlier=Path(spec.curve.earlier).resolve() if spec.curve.earlier else None,
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
