"""A Docker engine of our own, for the length of a `with` block: what `docker/compose_test.py` builds and runs in.

The engine runs in process and mount namespaces of its own, and, where asked, in a network of its own: when its first
process ends, every container, mount, bridge and published port that it made ends with it. The machine's own engine,
its network and its firewall are never touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DOCKER = "docker"
START_S = 60.0
STOP_S = 60.0


class EngineError(RuntimeError):
    """The engine did not start, or a command in it failed."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running engine: how to talk to it, and how to enter its network."""

    pid: int
    """Of the daemon, as this machine counts."""
    env: dict[str, str]
    """The environment in which `docker` talks to this engine."""

    def run(self, *arguments: str, env: dict[str, str] | None = None, quiet: bool) -> subprocess.CompletedProcess[str]:
        """Run `docker` to its end; if `quiet`, keep what it prints."""
        command = [DOCKER, *arguments]
        return subprocess.run(command, env={**self.env, **(env or {})}, check=False, capture_output=quiet, text=True)

    def docker(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Run `docker`, its output going to ours; an EngineError if it fails."""
        done = self.run(*arguments, env=env, quiet=False)
        if done.returncode != 0:
            raise EngineError(f"`docker {' '.join(arguments)}` ended with {done.returncode}")

    def ask(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """What `docker` printed; an EngineError if it fails."""
        done = self.run(*arguments, env=env, quiet=True)
        if done.returncode != 0:
            raise EngineError(f"`docker {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def pipe(self, *arguments: str, env: dict[str, str], **streams: IO[bytes]) -> None:
        """Run `docker` with a file as its input or output; an EngineError if it fails."""
        done = subprocess.run([DOCKER, *arguments], env={**self.env, **env}, check=False, **streams)
        if done.returncode != 0:
            raise EngineError(f"`docker {' '.join(arguments)}` ended with {done.returncode}")

    def inside(self, *command: str) -> list[str]:
        """The command line that runs `command` on this machine, but in the engine's network."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def within(self, *command: str, network_of: int | None = None) -> str:
        """What a program of this machine prints that sees the network and processes of the engine, or an EngineError.

        `network_of` is the process of a container whose network it has instead, as the engine counts.
        """
        enter = ["nsenter", "--target", str(self.pid), "--net", "--pid", "--mount"]
        other = [] if network_of is None else ["nsenter", "--target", str(network_of), "--net"]
        done = subprocess.run([*enter, *other, *command], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise EngineError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def pid_of(self, container: str) -> int:
        """Of a container's first process, as the engine counts."""
        return int(self.ask("inspect", "--format", "{{.State.Pid}}", container))


@contextmanager
def engine(*, data_root: Path, run_dir: Path, cli_config: Path, own_network: bool) -> Iterator[Engine]:
    """Start `dockerd`, and stop it and all that it started at the end, however the block ends.

    `data_root` keeps images and the build cache for the next time; one engine at a time can use it. Without
    `own_network` builds reach what this machine reaches, and no container gets a network of its own.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    socket = run_dir / "docker.sock"
    log_path = run_dir / "dockerd.log"
    daemon = ["dockerd", "-H", f"unix://{socket}", "--data-root", str(data_root), "--exec-root", str(run_dir / "exec")]
    daemon += ["--pidfile", str(run_dir / "dockerd.pid")]
    namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if own_network:
        namespaces.append("--net")
        daemon = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *daemon]
    else:
        daemon += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    # If this process is killed, so is the daemon, and with it everything in its namespaces.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *daemon]
    (run_dir / "dockerd.pid").unlink(missing_ok=True)
    with log_path.open("wb") as log:
        outer = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    env = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(cli_config), "DOCKER_BUILDKIT": "1"}
    env.pop("DOCKER_CONTEXT", None)
    try:
        _wait_until_it_answers(outer, env, log_path)
        yield Engine(pid=_only_child(outer.pid), env=env)
    finally:
        _stop(outer)


def _wait_until_it_answers(outer: subprocess.Popen[bytes], env: dict[str, str], log_path: Path) -> None:
    deadline = time.monotonic() + START_S
    while subprocess.run([DOCKER, "version"], env=env, check=False, capture_output=True).returncode != 0:
        if outer.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
            raise EngineError(f"the Docker engine did not start; the end of its log:\n{tail}")
        time.sleep(0.2)


def _only_child(pid: int) -> int:
    """The process that `unshare --fork` started: the daemon."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _stop(outer: subprocess.Popen[bytes]) -> None:
    """Ask the daemon to end; past the deadline end its namespace, which nothing in it survives."""
    if outer.poll() is not None:
        return
    os.kill(_only_child(outer.pid), signal.SIGTERM)
    try:
        outer.wait(STOP_S)
    except subprocess.TimeoutExpired:
        outer.kill()
        outer.wait()
