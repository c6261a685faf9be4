"""The stack of `docker-compose.yml`, brought up as `docs/deploy.md` says: `docker/init.sh`, `docker compose up`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    env: dict[str, str] = field(repr=False)

    @classmethod
    def prepare(cls, engine: Engine, *, repo: Path, work: Path, worker_image: str) -> Stack:
        """Run `docker/init.sh` in a folder of its own, so that the checkout's `.env` stays as it is."""
        (work / "docker").mkdir()
        shutil.copy(repo / "docker" / "init.sh", work / "docker")
        shutil.copy(repo / ".env.example", work)
        init = subprocess.run([work / "docker" / "init.sh", "tester"], check=True, capture_output=True, text=True)
        env = {
            "LADLE_DATA": str(work / "data"),
            "LADLE_SECRETS": str(work / "docker" / "secrets"),
            "LADLE_WORKER_IMAGE": worker_image,
        }
        return cls(engine=engine, repo=repo, work=work, token=init.stdout.strip(), env=env)

    def compose(self, *arguments: str) -> None:
        """`docker compose ...`, its output going to ours."""
        self.engine.docker("compose", *self._options(), *arguments, env=self.env)

    def ask(self, *arguments: str) -> str:
        """What `docker compose ...` printed."""
        return self.engine.ask("compose", *self._options(), *arguments, env=self.env)

    def refuses(self, service: str, *command: str) -> bool:
        """Whether a command in a service's container fails."""
        arguments = ["compose", *self._options(), "exec", "-T", service, *command]
        done = self.engine.run(*arguments, env=self.env, quiet=True)
        return done.returncode != 0

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
        say("docker compose up --wait")
        began = time.monotonic()
        try:
            self.compose("--progress", "quiet", "up", "--no-build", "--wait", "--wait-timeout", "120")
            say(f"every service is healthy after {time.monotonic() - began:.0f} s")
            yield
        except BaseException:
            print(self.ask("ps", "--all"), self.ask("logs", "--no-color", "--tail", "60"), sep="\n", flush=True)
            raise
        finally:
            say("docker compose down")
            self.compose("--progress", "quiet", "down", "--volumes", "--timeout", "30")

    def _options(self) -> list[str]:
        env_file = str(self.work / ".env")
        return [
            "--project-name",
            "ladle-check",
            "--env-file",
            env_file,
            "--file",
            str(self.repo / "docker-compose.yml"),
        ]
