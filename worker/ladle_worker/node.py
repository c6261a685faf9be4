"""This node in Redis: it registers, sends heartbeats and leaves. It is a thread of Celery's main process."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from typing import Any

from redis.exceptions import RedisError

from ladle_contracts import TERMINAL_STATES, keys
from ladle_contracts.transitions import SCRIPTS
from ladle_worker.confinement.choose import choose
from ladle_worker.connection import connect
from ladle_worker.job_folder import JobFolder, jobs_with_folders
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S = 300
SWEEP_S = 60.0
"""How often it looks for working folders of jobs that have ended."""


class CannotDescribe(RuntimeError):
    """The engine cannot be imported on this machine."""


def describe() -> dict[str, Any]:
    """The catalogue, the GPUs and torch's version, from a separate process. Raises `CannotDescribe`."""
    done = subprocess.run(
        [sys.executable, "-m", "ladle_worker.describe"], capture_output=True, text=True, timeout=DESCRIBE_TIMEOUT_S
    )
    if done.stderr:
        logger.warning("%s", done.stderr.strip())
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
        self._leaving = threading.Event()
        self._is_registered = False
        self._thread = threading.Thread(target=self._run, name="ladle-node", daemon=True)

    def register(self) -> None:
        """Before the first message is consumed. Where Redis does not answer yet, the thread does it later."""
        redis = connect(self._settings, retries=0)
        try:
            self._register(redis)
        except RedisError as error:
            logger.warning("the node cannot reach Redis: %s", error)
        finally:
            redis.close()

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Safe in a signal handler, because the thread does the work."""
        self._leaving.set()

    def _run(self) -> None:
        redis = connect(self._settings, retries=0)
        sweep_at = time.monotonic()
        while not self._leaving.is_set():
            try:
                if not self._is_registered:
                    self._register(redis)
                beat = redis.register_script(SCRIPTS["heartbeat"])(args=[self._settings.node_id])
                self._is_registered = beat == "ok"
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + SWEEP_S
                    self._sweep(redis)
            except RedisError as error:
                logger.warning("the node cannot reach Redis: %s", error)
            self._leaving.wait(self._settings.heartbeat_s)
        try:
            redis.register_script(SCRIPTS["leave"])(args=[self._settings.node_id])
        except RedisError as error:
            logger.warning("the node could not tell Redis that it leaves: %s", error)
        redis.close()

    def _register(self, redis: Any) -> None:
        redis.register_script(SCRIPTS["register"])(args=self._fields())
        self._is_registered = True
        logger.info("node %s is ready", self._settings.node_id)

    def _sweep(self, redis: Any) -> None:
        """Removes the files of jobs that ended while their agent was not running.

        A job that this Redis does not know may belong to another installation that shares the folder, so it stays.
        """
        for job_id in jobs_with_folders(self._settings.results_dir):
            if redis.hget(keys.job(job_id), "state") in TERMINAL_STATES:
                logger.info("removing what job %s left", job_id)
                JobFolder(self._settings.results_dir, job_id).remove()

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
        }
        return [self._settings.node_id, *(text for pair in fields.items() for text in pair)]
