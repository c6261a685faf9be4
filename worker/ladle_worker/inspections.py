"""Answers requests to inspect a folder, also while this node is busy with a job: a thread of Celery's main process.

A request waits in a list in Redis, of which the first node that is there takes it. A confined process looks at the
folder; what it says is kept in Redis for the service, for a short time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from ladle_contracts import ErrorCode, Inspection, InspectRequest, keys
from ladle_contracts.inspection import MOST_ANSWER_BYTES, shortened
from ladle_contracts.roots import PathNotAllowed
from ladle_worker.confinement.plan import NETWORK, Plan
from ladle_worker.connection import OutageLog, connect
from ladle_worker.far_helper import far_request, has_url, helper_environment
from ladle_worker.job_request import confinement_of, inside_roots
from ladle_worker.launch.environment import LOOPBACK_ONLY, rank_environment
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)

WAIT_S = 2.0
POLL_S = 0.05
KEPT_MS = 60_000
"""How long the answer is there."""
MOST_READ_BYTES = 64 << 20


class Inspections:
    """Takes one request after the other, until the node leaves."""

    def __init__(self, settings: Settings, protections: Collection[str], leaving: threading.Event) -> None:
        self._settings = settings
        self._protections = tuple(protections)
        self._leaving = leaving
        self._thread = threading.Thread(target=self._run, name="ladle-inspections", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        redis = connect(self._settings)
        log = OutageLog()
        while not self._leaving.is_set():
            try:
                taken = redis.blpop([keys.INSPECTIONS], timeout=WAIT_S)
                if taken is not None:
                    self._serve(redis, taken[1])
            except RedisError as error:
                log.failed(error)
                self._leaving.wait(WAIT_S)
            except Exception:
                # One request must not end all others.
                logger.exception("a folder cannot be inspected")
            else:
                log.passed()
        redis.close()

    def _serve(self, redis: Any, text: str) -> None:
        entry = json.loads(text)
        seconds, micros = redis.time()
        left_s = entry["deadline_ms"] / 1000 - int(seconds) - int(micros) / 1e6
        if left_s > 0:
            told = self._answer(entry["request"], time.monotonic() + left_s)
            redis.set(keys.inspection(entry["id"]), json.dumps(told), px=KEPT_MS)

    def _answer(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        settings, wanted = self._settings, InspectRequest.read(json.dumps(request))
        try:
            ckpt_dir = wanted.with_ckpt_dirs(inside_roots(settings, may_be_glob=True))
            others = {"adapters.base_model": wanted.adapters.base_model, "base": wanted.base}
            resolve = inside_roots(settings)
            base_model, base = (each if each is None else resolve(field, each) for field, each in others.items())
        except (PathNotAllowed, OSError) as error:
            return _refusal(ErrorCode.PATH_NOT_ALLOWED, str(error))
        with tempfile.TemporaryDirectory(prefix="ladle-inspect-") as scratch:
            asked = {
                "request": request
                | {"ckpt_dir": ckpt_dir, "base": base}
                | {"adapters": wanted.adapters.model_dump() | {"base_model": base_model}},
                "roots": [str(root) for root in settings.roots],
            }
            if any(map(has_url, (ckpt_dir, base_model, base))):
                asked = far_request(asked, settings)
            told = self._look(Path(scratch), asked, deadline)
        if told is None:
            return _refusal(ErrorCode.NO_ANSWER, "The worker could not look at the folder to the end, or not in time.")
        if told["ok"]:
            found = Inspection.model_validate_json(json.dumps(told["inspection"]))
            told["inspection"] = shortened(found, MOST_ANSWER_BYTES).model_dump(mode="json")
        return told

    def _look(self, scratch: Path, asked: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        """What the process says; None where it fails, or not in time."""
        plan, question, out = scratch / "plan.json", scratch / "asked.json", scratch / "out"
        self._plan(scratch).save(plan)
        question.write_text(json.dumps(asked) + "\n")
        own = {"TMPDIR": str(scratch)} | (LOOPBACK_ONLY if NETWORK in self._protections else {})
        environment, module = rank_environment(1) | own, "inspect_folder"
        if "far_roots" in asked:
            # It has the credentials, and starts the one that looks.
            environment, module = helper_environment() | {"TMPDIR": str(scratch)}, "far_inspect"
        with question.open("rb") as stdin, out.open("wb") as stdout, (scratch / "log").open("w+b") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"ladle_worker.{module}", str(plan)],
                stdin=stdin,
                stdout=stdout,
                stderr=log,
                cwd=scratch,
                env=environment,
                # A group of its own, which is ended as a whole.
                start_new_session=True,
            )
            status = self._wait(process, deadline)
            if status != 0:
                log.seek(0)
                tail = log.read()[-2000:].decode(errors="replace")
                logger.warning("an inspection ended with status %s: %s", status, tail)
        if status != 0 or out.stat().st_size > MOST_READ_BYTES:
            return None
        lines = out.read_text(errors="replace").splitlines()
        told: dict[str, Any] = json.loads(lines[-1])
        return told

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> int | None:
        """The exit status; None if it had to be ended."""
        try:
            while time.monotonic() < deadline and not self._leaving.is_set():
                if (status := process.poll()) is not None:
                    return status
                self._leaving.wait(POLL_S)
            return None
        finally:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _plan(self, scratch: Path) -> Plan:
        """As ranks are confined, but it may write nothing of the results."""
        return confinement_of(
            self._settings,
            self._protections,
            # Both say how large a file may become.
            inputs=(str(scratch),),
            outputs=scratch,
            reads=(scratch,),
            writes=(scratch,),
        )


def _refusal(code: ErrorCode, message: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "message": message}
