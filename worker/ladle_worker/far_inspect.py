"""Inspects a folder that is far, wholly or in part: `python -m ladle_worker.far_inspect PLAN`, beside `inspect_folder`.

It fetches what the confined process that looks asks for, which is headers and small files. Stdin is that of
`inspect_folder` with what the operator says of far folders; so is stdout.
"""

from __future__ import annotations

from ladle_worker.family import die_with_parent

die_with_parent()

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ladle_contracts.processes import end_with_parent, keep_secrets  # noqa: E402
from ladle_engine import EngineError  # noqa: E402
from ladle_engine.progress import ignore  # noqa: E402
from ladle_engine.storage.far.door import near_arguments, opened_mirror  # noqa: E402
from ladle_engine.storage.far.fetch import Mirror  # noqa: E402
from ladle_worker.confinement.plan import NETWORK, Plan  # noqa: E402
from ladle_worker.far import as_text, far_settings  # noqa: E402
from ladle_worker.far_helper import has_url  # noqa: E402
from ladle_worker.far_questions import answered  # noqa: E402
from ladle_worker.launch.environment import LOOPBACK_ONLY, rank_environment  # noqa: E402


def main(plan_path: str) -> None:
    keep_secrets()
    asked = json.loads(sys.stdin.readline())
    settings = far_settings(asked)
    try:
        with opened_mirror(settings, (), ignore) as mirror:
            told = _looked(asked, Path(plan_path), mirror)
    except EngineError as error:
        told = {"ok": True, "inspection": _refused(asked["request"], error)}
    print(json.dumps(told), flush=True)


def _looked(asked: dict[str, Any], plan_path: Path, mirror: Mirror) -> Any:
    """Raises `EngineError` where the folder cannot be listed, or bytes cannot be had."""
    request = asked["request"]
    given = {name: request[name] for name in ("ckpt_dir", "base")} | {"base_model": request["adapters"]["base_model"]}
    near = as_text(near_arguments(mirror, given, data=()))
    cache = str(mirror.cache.mirror)
    looked_at = {
        "request": request
        | {"ckpt_dir": near["ckpt_dir"], "base": near["base"]}
        | {"adapters": request["adapters"] | {"base_model": near["base_model"]}},
        "roots": [*asked["roots"], cache],
        "mirror": cache,
    }
    plan = Plan.load(plan_path)
    plan = replace(plan, agent=os.getpid(), read=(*plan.read, cache))
    plan.save(plan_path)
    own = {"TMPDIR": os.environ["TMPDIR"]} | (LOOPBACK_ONLY if NETWORK in plan.protections else {})
    with subprocess.Popen(
        [sys.executable, "-m", "ladle_worker.inspect_folder", str(plan_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=plan_path.parent,
        env=rank_environment(1) | own,
        preexec_fn=end_with_parent(signal.SIGKILL),
    ) as looking:
        assert looking.stdin is not None
        looking.stdin.write(json.dumps(looked_at) + "\n")
        looking.stdin.flush()
        told = answered(looking, mirror)
    if told is None:
        raise RuntimeError(f"the process that looks ended with status {looking.returncode}")
    return told


def _refused(request: dict[str, Any], error: EngineError) -> dict[str, Any]:
    """As `inspect` tells of a folder at which it cannot look."""
    given = request["ckpt_dir"]
    several = [given] if isinstance(given, str) else given
    shown = ", ".join([each for each in several if has_url(each)][:3])
    problem = {"code": error.code, "message": error.message}
    return {"folder": shown, "usable": False, "problems": [problem]}


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)
