"""This node in Redis: it registers, sends heartbeats and leaves. It is a thread of Celery's main process."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from ladle_contracts import keys
from ladle_contracts.transitions import SCRIPTS
from ladle_worker.claim import fate_of
from ladle_worker.confinement.choose import choose
from ladle_worker.connection import OutageLog, connect, patiently
from ladle_worker.inspections import Inspections
from ladle_worker.job_folder import jobs_with_folders
from ladle_worker.launch.choose import end_orphans
from ladle_worker.leftovers import clear_leftovers
from ladle_worker.settings import Settings
from ladle_worker.vetted import Vetter

logger = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S = 300
VET_POLL_S = 0.2
MOST_RANKS = 64


class CannotDescribe(RuntimeError):
    """The engine cannot be imported on this machine."""


def describe() -> dict[str, Any]:
    """The catalogue, the GPUs and torch's version, from a separate process. Raises `CannotDescribe`."""
    done = subprocess.run(
        [sys.executable, "-m", "ladle_worker.describe"], capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S
    )
    for line in done.stderr.splitlines():
        logger.warning(line)
    if done.returncode != 0:
        raise CannotDescribe(
            f"The engine cannot be imported: {(done.stderr.strip().splitlines() or ['?'])[-1]}. "
            f"Install it with `pip install 'ladle[worker]'`."
        )
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described


class Node:
    """Registers, then sends heartbeats until `leave`."""

    def __init__(self, settings: Settings, described: dict[str, Any]) -> None:
        self._settings = settings
        self._described = described
        self.protections = choose(settings.confine, described["protections"], gpus=bool(described["gpus"]))
        """What this node's ranks are confined in."""
        self.gpus = min(len(described["gpus"]), settings.ranks or MOST_RANKS)
        """How many of its GPUs a job may use."""
        self._leaving = threading.Event()
        self._is_registered = False
        self._inspections = Inspections(settings, self.protections, self._leaving)
        self._thread = threading.Thread(target=self._run, name="ladle-node", daemon=True)
        self._sweeping = threading.Thread(target=self._sweep, name="ladle-sweep", daemon=True)
        self._looking = threading.Thread(target=self._vet, name="ladle-vetting", daemon=True)
        self._vetting = ""
        """What it found, until a heartbeat has told it."""

    def wait_for_redis(self, between: Callable[[], None]) -> None:
        """Returns when Redis takes writes and knows the node. `between` is called while it waits, and may raise.

        It is called before the first message is consumed: registering ends the lease of the job that the node held
        before it restarted, so it must not come after the child has claimed a new job.
        """
        redis = connect(self._settings)
        try:
            patiently(lambda: self._introduce(redis), between=between)
        finally:
            redis.close()

    def start(self) -> None:
        self._thread.start()
        self._sweeping.start()
        if self._described["gpus"]:
            self._looking.start()
        self._inspections.start()

    def leave(self) -> None:
        """Safe in a signal handler, because the thread does the work."""
        self._leaving.set()

    def _run(self) -> None:
        redis = connect(self._settings)
        log = OutageLog()
        while not self._leaving.is_set():
            try:
                if not self._is_registered:
                    self._register(redis)
                found = self._vetting
                beat = redis.register_script(SCRIPTS["heartbeat"])(args=[self._settings.node_id, found])
                self._is_registered = beat == "ok"
                if self._is_registered and self._vetting == found:
                    self._vetting = ""
            except RedisError as error:
                log.failed(error)
            else:
                log.passed()
            self._leaving.wait(self._settings.heartbeat_s)
        try:
            redis.register_script(SCRIPTS["leave"])(args=[self._settings.node_id])
        except RedisError as error:
            logger.warning("the node could not tell Redis that it leaves: %s", error)
        redis.close()

    def _introduce(self, redis: Any) -> None:
        """Registers once, and later only sees whether Redis takes writes."""
        if self._is_registered:
            redis.set(keys.PROBE, "", xx=True)
        else:
            self._register(redis)

    def _register(self, redis: Any) -> None:
        redis.register_script(SCRIPTS["register"])(args=self._fields())
        self._is_registered = True
        logger.info("node %s is ready", self._settings.node_id)

    def _sweep(self) -> None:
        """Clears up after jobs that ended while their agent was not running. A store may keep it waiting."""
        redis = connect(self._settings)
        while not self._leaving.is_set():
            try:
                for job_id in jobs_with_folders(self._settings.results_dir):
                    clear_leftovers(self._settings, job_id, fate_of(redis, job_id))
                end_orphans(self._settings, redis)
            except RedisError:
                # The heartbeat says it.
                pass
            except Exception:
                logger.exception("the node cannot look for left-over files")
            self._leaving.wait(self._settings.sweep_s)
        redis.close()

    def _vet(self) -> None:
        """Once, so that an operator sees what the GPUs are like before a job needs them."""
        gpus = len(self._described["gpus"])
        with tempfile.TemporaryDirectory(prefix="ladle-vetting-") as scratch:
            vetter = Vetter(Path(scratch), gpus=gpus, ranks=gpus, roots=(), path=None)
            try:
                while vetter.poll() is None and not self._leaving.wait(VET_POLL_S):
                    continue
                if not self._leaving.is_set():
                    self._vetting = vetter.answer().model_dump_json()
            finally:
                vetter.end()

    def _fields(self) -> list[str]:
        fields = {
            "id": self._settings.node_id,
            "host": socket.gethostname(),
            "ranks": str(self._settings.ranks or self._described["ranks"]),
            "gpus": json.dumps(self._described["gpus"]),
            "version": version("ladle"),
            "torch_version": self._described["torch_version"],
            "protections": json.dumps(self.protections),
            "catalog": json.dumps(self._described["catalog"]),
            "dispatches": "1" if self._settings.dispatches else "",
            "holds": str(self._settings.holds) if self._settings.dispatches else "",
        }
        return [self._settings.node_id, *(text for pair in fields.items() for text in pair)]
