"""Inspects one folder, in a process of its own: `python -m ladle_worker.inspect_folder [PLAN]`.

Reads `{"request": InspectRequest, "roots": [...] or null}` as one line of stdin. The last line of stdout is
`{"ok": true, "inspection": ...}`, or `{"ok": false, "code": ..., "message": ...}` for an argument that breaks a rule.
With a plan it first confines itself as ranks are. With a `"mirror"` the files are far, and it asks for their bytes as
`far_questions` says.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ladle_contracts import CheckpointFilter, InspectRequest
from ladle_worker.confinement.apply import confine
from ladle_worker.confinement.limits import limit_memory
from ladle_worker.confinement.plan import MEMORY, Plan
from ladle_worker.far_questions import Asking
from ladle_worker.launch.environment import RANK_VARIABLES

MEMORY_BYTES = 4 << 30
"""What a stranger's file may take, if it comes to that. Headers take a few megabytes."""


def main(plan_path: str | None = None) -> None:
    plan = None if plan_path is None else Plan.load(Path(plan_path))
    if plan is not None and (status := confine(plan)) is not None:
        os._exit(status)
    asked = json.loads(sys.stdin.readline())
    asking = Asking.on_standard_streams() if "mirror" in asked else None
    os.environ.update({name: value for name, value in RANK_VARIABLES.items() if name not in os.environ})
    limited = plan is not None and MEMORY in plan.protections
    if asking is None:
        print(json.dumps(answer(asked, limited=limited)), flush=True)
    else:
        asking.tell(_far_answer(asked, asking, limited=limited))
    # A plug-in may print once more while Python ends, or have a thread that never does.
    os._exit(0)


def _far_answer(asked: dict[str, Any], asking: Asking, *, limited: bool) -> dict[str, Any]:
    from ladle_engine.far_names import show_mirror
    from ladle_engine.storage.far.presence import installed

    show_mirror(asked["mirror"])
    with installed(asking):
        return answer(asked, limited=limited)


def answer(asked: dict[str, Any], *, limited: bool = False) -> dict[str, Any]:
    """What is told about the folder."""
    # After the variables are set, which libraries read when they are imported.
    from ladle_engine.storage.host_memory import free_host_bytes
    from ladle_worker.boundary import confine_reading

    if asked["roots"] is not None:
        if limited:
            limit_memory(min(free_host_bytes(), MEMORY_BYTES))
        confine_reading(asked["roots"])
    try:
        return {"ok": True, "inspection": inspected(InspectRequest.read(json.dumps(asked["request"])))}
    except ValueError as error:
        return {"ok": False, "code": "invalid-spec", "message": str(error)}


def inspected(request: InspectRequest) -> dict[str, Any]:
    """As JSON. Raises ValueError for an argument that breaks a rule."""
    from ladle_engine import inspect
    from ladle_worker.convert import inspection

    found = inspect(
        request.ckpt_dir,
        kind=request.kind,
        task=request.task.name if request.task else None,
        task_options=request.task.options if request.task else None,
        method=request.method.name,
        method_options=request.method.options,
        adapter_space=request.adapters.space,
        base_model=request.adapters.base_model,
        base=request.base,
        forecast=request.forecast,
        **{name: getattr(request.checkpoints, name) for name in CheckpointFilter.model_fields},
    )
    return inspection(found).model_dump(mode="json")


if __name__ == "__main__":
    main(*sys.argv[1:])
