"""Fetches the far files of one attempt, and looks at the end whether they changed: `python -m ladle_worker.far FOLDER`.

Of all processes of a job it alone has the operator's credentials. What is in the files it does not look at: it is told
by `ladle_worker.far_look` which bytes are needed.
"""

from __future__ import annotations

from ladle_worker.family import die_with_parent

die_with_parent()

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ladle_contracts.processes import end_with_parent, keep_secrets  # noqa: E402
from ladle_engine.progress import on_pulse  # noqa: E402
from ladle_engine.storage.far.door import FarSettings, near_arguments, opened_mirror  # noqa: E402
from ladle_engine.storage.far.fetch import Mirror  # noqa: E402
from ladle_worker.confinement.plan import Plan  # noqa: E402
from ladle_worker.failure import failure_of, log_failure  # noqa: E402
from ladle_worker.family import JOB_VARIABLE  # noqa: E402
from ladle_worker.far_helper import INPUTS  # noqa: E402
from ladle_worker.far_questions import answered  # noqa: E402
from ladle_worker.job_folder import AttemptFolder, write_whole  # noqa: E402
from ladle_worker.launch.environment import rank_environment  # noqa: E402
from ladle_worker.told import Events, beating  # noqa: E402


def main(attempt_folder: str) -> None:
    keep_secrets()
    folder = AttemptFolder(Path(attempt_folder))
    job = json.loads(folder.far_request.read_text())
    on_pulse(beating(folder.pulse))
    settings = far_settings(job)
    answer = folder.far
    try:
        with Events(folder.events) as events, opened_mirror(settings, (), events.add) as mirror:
            write_whole(folder.far, _fetched(folder, job, mirror))
            answer = folder.far_checked
            # The agent writes a line once the ranks have ended well, and goes away otherwise.
            if sys.stdin.readline():
                mirror.refuse_changed()
                write_whole(folder.far_checked, {"ok": True})
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        log_failure(failure, error)
        told = {"reason": failure.reason, "message": failure.message, "final": failure.is_final}
        write_whole(answer, {"ok": False, **told})


def far_settings(request: Mapping[str, Any]) -> FarSettings:
    """What `far_request` says of the operator's settings."""
    return FarSettings(
        cache=Path(request["cache"]),
        cache_bytes=request["cache_bytes"],
        private=tuple(request["private"]),
        roots=tuple(request["far_roots"]),
    )


def _fetched(folder: AttemptFolder, job: Mapping[str, Any], mirror: Mirror) -> dict[str, Any]:
    paths = {name: job[name] for name in INPUTS}
    near = {name: as_text(value) for name, value in (paths | near_arguments(mirror, paths)).items()}
    job = {**job, **near, "roots": [*job["roots"], str(mirror.cache.mirror)]}
    _look(folder, job, mirror)
    return {
        "ok": True,
        **near,
        "mirror": str(mirror.cache.mirror),
        "here": mirror.what_is_here(),
        "parts": mirror.partial(),
        "record": mirror.record(),
    }


def _look(folder: AttemptFolder, job: Mapping[str, Any], mirror: Mirror) -> None:
    request, plan_path = folder.path / "far-look.json", folder.path / "far-plan.json"
    write_whole(request, job)
    plan = Plan.load(folder.plan)
    replace(
        plan, agent=os.getpid(), inputs=_folders(job), read=(*plan.read, str(mirror.cache.mirror), str(request))
    ).save(plan_path)
    with subprocess.Popen(
        [sys.executable, "-m", "ladle_worker.far_look", str(plan_path), str(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder.path,
        env=rank_environment(1) | {JOB_VARIABLE: job["mark"], "TMPDIR": str(folder.temporary)},
        preexec_fn=end_with_parent(signal.SIGKILL),
    ) as looking:
        answered(looking, mirror)


def _folders(job: Mapping[str, Any]) -> tuple[str, ...]:
    given = job["ckpt_dir"]
    return (given,) if isinstance(given, str) else tuple(given)


def as_text(value: Any) -> Any:
    """Paths in it as text, for JSON."""
    if isinstance(value, dict):
        return {name: as_text(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(each) for each in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
