"""What `make compose-test` runs, once `docker/compose-test.sh` has made sure of the tools.

Build both images with one engine, start the stack with another one that has a network of its own, and check it as an
operator and a user would: the operator through `docker`, the user through the Python client from outside the
containers (`outside.py`). Whatever happens, everything that was started is gone at the end.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cluster_checks
import stack_checks
from engine import Engine, EngineError, engine
from stack import Stack

REPO = Path(__file__).resolve().parents[2]
CACHE = REPO / ".cache" / "containers"
BASE_IMAGE = "python:3.11-slim-bookworm"
REDIS_IMAGE = "redis:7-bookworm"
BUILD_CACHE = "5GB"
PLUGIN_IMAGE = "ladle-worker:compose-test"
# Fixed: the address is part of the build cache's key.
WHEELS_PORT = 18399

started_at = time.monotonic()


def say(message: str) -> None:
    """A line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - started_at:5.0f} s] {message}", flush=True)


def main() -> None:
    """Build, start, check; the exit status is 0 only when every check passed."""
    with ExitStack() as cleanup:
        work = Path(tempfile.mkdtemp(prefix="ladle-compose-"))
        cleanup.callback(shutil.rmtree, work)
        start_engine = functools.partial(
            engine, data_root=CACHE / "engine", run_dir=work / "engine", cli_config=CACHE / "cli"
        )
        with start_engine(own_network=False) as build_engine:
            build(build_engine)
        with start_engine(own_network=True) as run_engine:
            stack = Stack.prepare(run_engine, repo=REPO, work=work, worker_image=PLUGIN_IMAGE)
            with stack.up(say):
                stack_checks.run_all(stack, say)
                backup = cluster_checks.back_up(stack, say)
            say("now several machines, with what the backup has")
            with cluster_checks.head_from_backup(stack, backup, say) as head:
                cluster_checks.run_all(head, BASE_IMAGE, say)
        nothing_is_left(work)
    say("every check passed; no container, engine or namespace is left")


def build(builder: Engine) -> None:
    """Make every image that the stack needs; what has not changed comes from the cache."""
    forget_a_killed_run(builder)
    if not builder.ask("images", "--quiet", BASE_IMAGE):
        say(f"importing the base image as {BASE_IMAGE}, which cannot be pulled here")
        builder.ask("import", str(CACHE / "base.tar"), BASE_IMAGE)
    say(f"building a stand-in for {REDIS_IMAGE}")
    builder.ask(
        "build", "--network=host", "--tag", REDIS_IMAGE, "--file", "docker/test/redis.Dockerfile", "docker/test"
    )
    say("building the images of the service and the worker")
    files = ["--file", "docker-compose.yml", "--file", "docker/test/compose.build.yml"]
    with served_wheels() as find_links:
        builder.docker(
            *("compose", "--env-file", "/dev/null", "--progress", "quiet", *files, "build"),
            env={
                "LADLE_KEYS": "unused",
                "PIP_FIND_LINKS": find_links,
                "TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", ""),
            },
        )
    say("adding the small-cnn plug-in to the worker's image")
    builder.ask(
        *("build", "--network=host", "--file", "docker/plugins.Dockerfile", "--tag", PLUGIN_IMAGE),
        *("--build-arg", "WORKER_IMAGE=ladle-worker", "examples/small-cnn"),
    )
    # What nothing refers to any more: older builds of ours would fill the disk.
    builder.ask("image", "prune", "--force")
    builder.ask("builder", "prune", "--force", "--keep-storage", BUILD_CACHE)


def forget_a_killed_run(builder: Engine) -> None:
    """Remove the containers, volumes and networks of a run that could not clean up; images and cache stay."""
    if containers := builder.ask("ps", "--all", "--quiet").split():
        builder.ask("rm", "--force", "--volumes", *containers)
    if volumes := builder.ask("volume", "ls", "--quiet").split():
        builder.ask("volume", "rm", "--force", *volumes)
    builder.ask("network", "prune", "--force")


def nothing_is_left(work: Path) -> None:
    """No process and no mount: namespaces without a name end with their last process."""
    commands = [
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(os.getpid())
    ]
    assert not [command for command in commands if str(work / "engine").encode() in command], "a process is left"
    assert str(work) not in Path("/proc/self/mounts").read_text(), "a mount is left"


@contextmanager
def served_wheels() -> Iterator[str]:
    """The address of a page with the wheels in pip's configured find-links folder; empty where there is none.

    A build cannot see this machine's folders, so a small server shows it this one, on loopback, while it builds.
    """
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], check=False, capture_output=True, text=True
    ).stdout.strip()
    folder = Path(os.environ.get("PIP_FIND_LINKS") or configured)
    if not folder.is_absolute() or not folder.is_dir():
        yield ""
        return
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{WHEELS_PORT}/"
        finally:
            server.shutdown()
            thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""


if __name__ == "__main__":
    os.chdir(REPO)
    # Both take down what was started, also where a parent had Ctrl-C ignored.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.default_int_handler)
    try:
        main()
    except (EngineError, AssertionError) as error:
        sys.exit(f"compose-test failed: {error}")
