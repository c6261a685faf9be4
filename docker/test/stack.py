"""The stack of `docker-compose.yml`, brought up as `docs/deploy.md` says: `docker/init.sh`, `docker compose up`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import Engine

PORT = 8337


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One deployment: its engine, its folders, and how to talk to its containers."""

    engine: Engine
    repo: Path
    work: Path
    """Holds `.env`, the tokens, and `data/`, which the containers see as `/data`."""
    token: str
    project: str = "ladle-check"
    files: tuple[str, ...] = ("docker-compose.yml",)
    env: dict[str, str] = field(repr=False)

    @classmethod
    def prepare(cls, engine: Engine, *, repo: Path, work: Path, worker_image: str) -> Stack:
        """Run `docker/init.sh` in a folder of its own, so that the checkout's `.env` stays as it is."""
        prepare_folder(repo, work)
        token = init(work, "tester")
        env = {
            "LADLE_DATA": str(work / "data"),
            "LADLE_KEYS": str(work / "docker" / "keys"),
            "LADLE_SECRETS": str(work / "docker" / "secrets"),
            "LADLE_WORKER_IMAGE": worker_image,
        }
        return cls(engine=engine, repo=repo, work=work, token=token, env=env)

    def changed(self, *files: str, work: Path | None = None, project: str | None = None, **env: str) -> Stack:
        """Another deployment that has the rest in common with this one."""
        env = {**self.env, **env}
        return replace(self, files=files, work=work or self.work, project=project or self.project, env=env)

    def compose(self, *arguments: str) -> None:
        """`docker compose ...`, its output going to ours."""
        self.engine.docker("compose", *self.options(), *arguments, env=self.env)

    def ask(self, *arguments: str) -> str:
        """What `docker compose ...` printed."""
        return self.engine.ask("compose", *self.options(), *arguments, env=self.env)

    def refuses(self, service: str, *command: str) -> bool:
        """Whether a command in a service's container fails."""
        arguments = ["compose", *self.options(), "exec", "-T", service, *command]
        done = self.engine.run(*arguments, env=self.env, quiet=True)
        return done.returncode != 0

    def redis(self, *command: str) -> str:
        """What Redis answers its operator, in its own container."""
        script = 'REDISCLI_AUTH=$(cat /run/keys/operator-password) redis-cli -s /tmp/redis.sock --user operator "$@"'
        return self.ask("exec", "-T", "redis", "sh", "-c", script, "sh", *command)

    def outside(self, *arguments: str) -> None:
        """Run `outside.py`: on this machine, in the engine's network, outside every container."""
        command = [sys.executable, str(Path(__file__).with_name("outside.py")), *arguments]
        env = {
            **os.environ,
            "PYTHONPATH": str(self.repo),
            "LADLE_URL": f"http://127.0.0.1:{PORT}",
            "LADLE_TOKEN": self.token,
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(self.engine.inside(*command), env=env, check=False)
        assert done.returncode == 0, f"`outside.py {' '.join(arguments)}` ended with {done.returncode}"

    @contextmanager
    def up(self, say: Callable[[str], None]) -> Iterator[None]:
        """Start it and wait until every service is healthy; take it down, with its volumes, at the end."""
        name = f"{self.project}: " if self.project != type(self).project else ""
        say(f"{name}docker compose up --wait")
        began = time.monotonic()
        try:
            self.compose("--progress", "quiet", "up", "--no-build", "--wait", "--wait-timeout", "180")
            say(f"{name}every service is healthy after {time.monotonic() - began:.0f} s")
            yield
        except BaseException:
            print(self.ask("ps", "--all"), self.ask("logs", "--no-color", "--tail", "60"), sep="\n", flush=True)
            raise
        finally:
            say(f"{name}docker compose down")
            self.compose("--progress", "quiet", "down", "--volumes", "--timeout", "30")

    def options(self) -> list[str]:
        """What comes between `docker compose` and its command."""
        files = [part for file in self.files for part in ("--file", str(self.repo / file))]
        return ["--project-name", self.project, "--env-file", str(self.work / ".env"), *files]


def prepare_folder(repo: Path, work: Path) -> None:
    """As much of a checkout as `docker/init.sh` needs."""
    (work / "docker").mkdir(parents=True)
    for name in ("docker/init.sh", "docker/redis-users.acl", ".env.example"):
        shutil.copy(repo / name, work / name)


def init(work: Path, *arguments: str) -> str:
    """What `docker/init.sh` printed: a token, or nothing."""
    done = subprocess.run([work / "docker" / "init.sh", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"`docker/init.sh {' '.join(arguments)}` failed: {done.stderr}"
    return done.stdout.strip()
