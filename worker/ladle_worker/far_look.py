"""Looks what a job with far files will read, confined as a rank: `python -m ladle_worker.far_look PLAN REQUEST`.

It opens the job as the ranks will, and asks the process that started it for bytes: see `far_questions`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ladle_worker.confinement.apply import confine
from ladle_worker.confinement.plan import Plan
from ladle_worker.far_questions import Asking


def main(plan: str, request: str) -> int:
    status = confine(Plan.load(Path(plan)))
    if status is not None:
        return status
    _look(json.loads(Path(request).read_text()), Asking.on_standard_streams())
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
                base=job["base"],
                train_set=job["train_set"],
                curve_earlier=job["curve_earlier"],
                output=job["staging"],
                commit=False,
                **average_arguments(spec),
            )
    except Exception as error:
        # The ranks will meet it too, and tell.
        print(failure_of(error) or repr(error), file=sys.stderr)


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2])
    sys.stderr.flush()
    os._exit(status)
