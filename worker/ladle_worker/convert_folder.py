"""Converts checkpoints to safetensors, in a process of its own: `python -m ladle_worker.convert_folder`.

Reads the arguments of `ladle_engine.convert_checkpoints` from stdin, as JSON. The last line of stdout is `{"ok": true,
"folders": [...]}`, or `{"ok": false, "reason": ..., "message": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ladle_worker.launch.environment import RANK_VARIABLES


def main() -> None:
    asked = json.load(sys.stdin)
    os.environ.update({name: value for name, value in RANK_VARIABLES.items() if name not in os.environ})
    print(json.dumps(answer(asked)), flush=True)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What came of it."""
    from ladle_engine import convert_checkpoints
    from ladle_worker.failure import failure_of, log_failure

    try:
        folders = convert_checkpoints(asked.pop("source"), asked.pop("output"), **asked)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        log_failure(failure, error)
        # As the command calls them; in a job `output.name` is a flag.
        message = failure.message.replace("`source`", "`SOURCE`").replace("`output.name`", "`OUTPUT`")
        return {"ok": False, "reason": failure.reason, "message": message}
    return {"ok": True, "folders": [str(folder) for folder in folders]}


if __name__ == "__main__":
    main()
