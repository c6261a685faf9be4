"""The whole stack on this machine, for faults: a Redis server, the API, two nodes, and a disk that can be filled."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from redis.exceptions import RedisError

from ladle import Client
from ladle_contracts import keys
from tests.builders import make_checkpoints, make_val_set
from tests.chaos.held_rank import HOLDS
from tests.polling import DEADLINE_S, until
from tests.servers import Process, RedisServer, service_process, worker_process

NODES = ("node-1", "node-2")
DISK_MB = 64


@dataclass
class World:
    """What the faults act on."""

    folder: Path
    server: RedisServer
    service: Process
    nodes: dict[str, Process]
    has_disk: bool
    """Whether the results are on a small file system of their own, which a fault may fill or make read-only."""
    stopped: list[psutil.Process] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def client(self) -> Client:
        return Client(f"unix://{self.folder / 'api.sock'}")

    def fields(self, job_id: str) -> dict[str, str]:
        """The job's hash in Redis. Empty while Redis does not answer."""
        try:
            with self.redis() as client:
                fields: dict[str, str] = client.hgetall(keys.job(job_id))
                return fields
        except RedisError:
            return {}

    def redis(self) -> Any:
        client = self.server.client()
        client.connection_pool.connection_kwargs |= {"socket_timeout": 2, "socket_connect_timeout": 2}
        return client

    def new_data(self, name: str) -> Path:
        """Checkpoints and a validation set of one job's own, which a fault may change."""
        folder = self.data / name
        (folder / HOLDS).mkdir(parents=True)
        shutil.copytree(self.data / "checkpoints", folder / "checkpoints")
        shutil.copy(self.data / "val.npz", folder / "val.npz")
        return folder

    def processes(self, target: str, job_id: str) -> list[psutil.Process]:
        """The processes that are alive of a kind: `worker`, `agent`, `torchrun`, `rank`, `service` or `redis`."""
        if target == "service":
            return alive([self.service])
        if target == "redis":
            assert self.server.process is not None
            return [psutil.Process(self.server.process.pid)] if self.server.process.poll() is None else []
        if target == "worker":
            return alive(self.nodes.values())
        if target == "agent":
            return [child for worker in alive(self.nodes.values()) for child in children(worker, recursive=False)]
        return [process for process in self.of_job(job_id) if is_torchrun(process) == (target == "torchrun")]

    def of_job(self, job_id: str) -> list[psutil.Process]:
        """torchrun and the ranks of a job, wherever they are now in the tree of processes."""
        return [process for process in psutil.process_iter() if f"/.ladle/{job_id}/" in command(process)]

    def heal(self) -> None:
        """Everything works again: what was stopped goes on, what ended is started, the disk has room."""
        for process in self.stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self.stopped.clear()
        assert self.server.process is not None
        if self.server.process.poll() is not None:
            self.server.start()
        if self.has_disk:
            make_read_only(self, False)
            filler(self).unlink(missing_ok=True)
        for process in (self.service, *self.nodes.values()):
            if process.process is not None and process.process.poll() is not None:
                process.start()
        until(self._accepts_writes, what="Redis to accept writes again")

    def _accepts_writes(self) -> bool:
        try:
            with self.redis() as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
                client.config_set("maxmemory", 0)
                client.config_set("min-replicas-to-write", 0)
                return bool(client.set("chaos", "1"))
        except RedisError:
            return False

    def wait_until_ready(self) -> None:
        """Both nodes are registered and the API answers."""

        def ready() -> bool:
            try:
                with self.client() as client:
                    return sum(node.alive for node in client.nodes()) == len(self.nodes)
            except Exception:  # whatever a half-started service says
                return False

        until(ready, what="the stack to be ready", timeout_s=2 * DEADLINE_S)


def alive(processes: Any) -> list[psutil.Process]:
    running = (process.process for process in processes if process.process is not None)
    return [psutil.Process(each.pid) for each in running if each.poll() is None]


def children(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def command(process: psutil.Process) -> str:
    """Empty for a process that has ended."""
    try:
        return " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def is_torchrun(process: psutil.Process) -> bool:
    return "--nproc-per-node" in command(process)


def filler(world: World) -> Path:
    return world.results / ".filler"


def fill(world: World) -> None:
    """Until there is no room left."""
    with filler(world).open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)


def make_read_only(world: World, read_only: bool) -> None:
    """No name can be made, renamed or removed in any folder. A remount would be refused while a log is open."""
    folders = [str(path) for path in (world.results, *world.results.rglob("*")) if path.is_dir()]
    subprocess.run(["chattr", "-f", "+i" if read_only else "-i", *folders], check=False)


@contextmanager
def world(folder: Path, *, own_mounts: bool) -> Iterator[World]:
    """The stack, ready. `own_mounts`: this process may mount, and nobody else sees it."""
    for name in ("data", "results"):
        (folder / name).mkdir()
    make_checkpoints(folder / "data" / "checkpoints")
    make_val_set(folder / "data" / "val.npz")
    if own_mounts:
        options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m", "ladle-chaos", str(folder / "results")]
        subprocess.run(["mount", *options], check=True)
    server = RedisServer(folder)
    server.start()
    nodes = {name: worker_process(folder, server, folder / "data", **NODE_SETTINGS, NODE_ID=name) for name in NODES}
    made = World(folder, server, service_process(folder, server, folder / "data"), nodes, own_mounts)
    try:
        for process in (made.service, *nodes.values()):
            process.start()
        made.wait_until_ready()
        yield made
    finally:
        with suppress(Exception):
            made.heal()
        for process in (*nodes.values(), made.service):
            if process.process is not None:
                process.process.kill()
                process.process.wait()
        server.stop()
        if own_mounts:
            subprocess.run(["umount", "-l", str(folder / "results")], check=True)


LEASE_S = 6.0
"""Short, so that a lost node is soon noticed, and long enough for a busy machine."""
NODE_SETTINGS = {"RANK_MODULE": "tests.chaos.held_rank", "RANKS": "2", "LEASE_S": str(LEASE_S), "STANDBY": "1"}


def pause(rng: random.Random, longest_s: float) -> None:
    time.sleep(rng.uniform(0, longest_s))
