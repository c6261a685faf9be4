"""The service under load and attack: this commit's beside an earlier one's, in the same run.

    python benchmarks/load.py [--before COMMIT] [--only watchers ...] [--quick]

Each measure starts the real service of both commits on a real Redis of its own. The soft limit is 1,024 open files, as
usual on Linux.

watchers    many clients follow one job, whose events come five times per second; memory, descriptors, what arrives
half-open   many connections that send nothing or half a request; whether `/healthz` goes on answering
submit      20 owners submit while many jobs are queued
list        filters that match none of many jobs
idle        many queued jobs, no node, and nobody asks
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis
from load_clients import Asked, asking_for_health, crowd
from measuring import device_name, parser_of, save, table_lines
from rich.console import Console

from ladle_contracts import StepDone
from ladle_contracts.processes import end_with_parent
from ladle_contracts.transitions import SCRIPTS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tests.polling import until  # noqa: E402
from tests.servers import redis_binary  # noqa: E402

BEFORE = "c754164"
SOFT_FILES = 1024
OWNERS = 20
EVENTS, EVENTS_PER_S = 100, 5
ARRIVE_S, CLOSE_S, ASK_S, IDLE_S = 45.0, 45.0, 20.0, 15.0
NODE = "node"
HALF_REQUESTS = (
    b"",
    b"GET /healthz HTTP/1.1\r\nHos",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
)

Row = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Size:
    clients: int
    queued: int
    submits: int
    jobs: int


FULL = Size(clients=2000, queued=1000, submits=1000, jobs=10_000)
QUICK = Size(clients=200, queued=100, submits=100, jobs=500)


@dataclass(kw_only=True)
class Running:
    """A service with its Redis."""

    port: int
    process: psutil.Process
    redis: Any
    folder: Path

    def http(self, owner: int = 0, **options: Any) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {_token(owner)}"}
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=120, **options)

    def call(self, script: str, *arguments: Any) -> Any:
        return self.redis.register_script(SCRIPTS[script])(args=list(arguments))

    @property
    def spec(self) -> dict[str, str]:
        return {"ckpt_dir": str(self.folder / "data"), "val_set": str(self.folder / "data")}

    @property
    def rss_mb(self) -> float:
        return round(self.process.memory_info().rss / 1e6)

    @property
    def open_files(self) -> str:
        try:
            return str(self.process.num_fds())
        except psutil.AccessDenied:
            return "only root can count them"

    @property
    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def log_kb(self) -> float:
        return round((self.folder / "service.log").stat().st_size / 1e3)


def main() -> None:
    parser = parser_of(__doc__, quick="a tenth of everything", cpu_only=True)
    parser.add_argument("--before", default=BEFORE, help=f"the commit to compare with (default: {BEFORE})")
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES))
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    console = Console()
    rows: list[dict[str, str]] = []
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as temporary, earlier(arguments.before, Path(temporary)) as before:
        for name in arguments.only:
            sides = []
            for side, source in (("before", before), ("after", ROOT)):
                loads.append(os.getloadavg()[0])
                with running(source, Path(temporary) / f"{name}-{side}") as service:
                    sides.append(dict(MEASURES[name](service, size)))
                console.print(name, side, sides[-1])
            rows += [
                {"measure": name, "what": what, "before": sides[0][what], "after": sides[1][what]} for what in sides[1]
            ]
    result = {
        "machine": device_name_of_host(),
        "load_average": " to ".join(f"{load:.0f}" for load in sorted(loads)[:: len(loads) - 1]),
        "before": arguments.before,
        "after": commit("HEAD"),
        "command": " ".join(["python", "benchmarks/load.py", *sys.argv[1:]]),
        "rows": rows,
    }
    console.print(save("load", result, markdown(result), quick=arguments.quick))


@contextmanager
def earlier(name: str, folder: Path) -> Iterator[Path]:
    """The sources of another commit, in a work tree of their own."""
    tree = folder / "before"
    subprocess.run(["git", "worktree", "add", "--detach", str(tree), name], cwd=ROOT, check=True, capture_output=True)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)


@contextmanager
def running(source: Path, folder: Path) -> Iterator[Running]:
    (folder / "data").mkdir(parents=True)
    tokens = [f"owner-{owner}:{hashlib.sha256(_token(owner).encode()).hexdigest()}\n" for owner in range(OWNERS)]
    (folder / "tokens").write_text("".join(tokens))
    port = _free_port()
    variables = {
        "REDIS_URL": f"unix://{folder / 'redis.sock'}",
        "ROOTS": str(folder / "data"),
        "RESULTS_DIR": str(folder),
        "PORT": str(port),
        "TOKENS_FILE": str(folder / "tokens"),
    }
    environment = {f"LADLE_{name}": value for name, value in variables.items()}
    environment["PYTHONPATH"] = os.pathsep.join(str(source / name) for name in ("client", "service", "worker"))
    server = _start(
        [
            *(redis_binary(), "--port", "0", "--unixsocket", "redis.sock", "--dir", str(folder)),
            *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        ],
        folder / "redis.log",
    )
    service = _start([sys.executable, "-m", "ladle_service"], folder / "service.log", environment)
    try:
        client = redis.Redis.from_url(variables["REDIS_URL"], decode_responses=True)
        made = Running(port=port, process=psutil.Process(service.pid), redis=client, folder=folder)
        until(lambda: _is_ready(made), what="the service to be ready")
        yield made
    finally:
        for process in (service, server):
            process.kill()
            process.wait()


def watchers(service: Running, size: Size) -> Iterable[Row]:
    with service.http() as http:
        job = http.post("/v1/jobs", json=service.spec).json()["id"]
    heartbeat(service)
    attempt = until(lambda: scheduled(service, job), what="the job to be scheduled")
    service.call("claim", job, attempt, NODE, 3_600_000)
    request = (
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {_token(0)}\r\n"
        "Accept: text/event-stream\r\n\r\n"
    ).encode()
    alone = service.rss_mb
    with crowd(service.port) as clients:
        began = time.monotonic()
        clients.come(size.clients, [request])

        def all_follow() -> bool:
            clients.ask_again()
            return clients.having(1) == size.clients

        _wait(all_follow, ARRIVE_S, 1.0)
        yield "clients that follow", f"{clients.having(1)} of {size.clients}"
        yield "until all follow", f"{time.monotonic() - began:.1f} s"
        known = service.redis.xlen(f"ladle:job:{job}:events")
        with asking_for_health(service.port, 0.05) as asked:
            began_cpu, began = service.cpu_s, time.monotonic()
            for step in range(EVENTS):
                body = StepDone(stage="train", step=step, total=EVENTS, loss=0.5).model_dump_json()
                service.call("report", job, attempt, step + 1, "", 1, body)
                time.sleep(1 / EVENTS_PER_S)
            share = (service.cpu_s - began_cpu) / (time.monotonic() - began)
            _wait(lambda: clients.having(known + EVENTS) == size.clients, ARRIVE_S / 2)
        yield "that received all events", f"{clients.having(known + EVENTS)} of {size.clients}"
        yield "memory, of which without clients", f"{service.rss_mb:.0f} MB, {alone:.0f} MB"
        yield "open files of the service", service.open_files
        yield "connections to Redis", str(service.redis.info("clients")["connected_clients"] - 1)
        yield f"CPU at {EVENTS_PER_S} events per second", f"{100 * share:.0f} % of a core"
        yield from health(asked)


def half_open(service: Running, size: Size) -> Iterable[Row]:
    log_kb = service.log_kb
    with asking_for_health(service.port, 0.02) as asked, crowd(service.port) as clients:
        time.sleep(1)
        clients.come(
            size.clients, [b"", b"GET /healthz HTTP/1.1\r\nHos", b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"]
        )
        time.sleep(ASK_S)
        yield "open files of the service", service.open_files
        yield "memory", f"{service.rss_mb:.0f} MB"
        began = time.monotonic()
        _wait(lambda: clients.open == 0, CLOSE_S)
        closed = clients.open == 0
        yield "until all were closed", f"{ASK_S + time.monotonic() - began:.0f} s" if closed else "never"
    yield from health(asked)
    yield "the log grew by", f"{service.log_kb - log_kb:.0f} kB"


def submit(service: Running, size: Size) -> Iterable[Row]:
    seed(service, size.queued)

    def ask(number: int) -> float:
        began = time.perf_counter()
        answer = clients[number % OWNERS].post("/v1/jobs", json=service.spec)
        answer.raise_for_status()
        return 1000 * (time.perf_counter() - began)

    clients = [service.http(owner) for owner in range(OWNERS)]
    try:
        for _ in range(2):
            Asked([ask(owner) for owner in range(OWNERS)])
        alone = Asked([ask(number) for number in range(size.submits)])
        with ThreadPoolExecutor(OWNERS) as pool:
            together = Asked(list(pool.map(ask, range(size.submits))))
    finally:
        for client in clients:
            client.close()
    yield "one after another, p50 and p99", percentiles(alone)
    yield f"{OWNERS} at a time, p50 and p99", percentiles(together)


def listings(service: Running, size: Size) -> Iterable[Row]:
    seed(service, size.jobs)
    with service.http() as http:
        for what, params in (
            ("a state that no job has", {"state": "succeeded"}),
            ("a label that no job has", {"label": "no=where"}),
            ("the first 50", {}),
        ):
            calls = service.redis.info("stats")["total_commands_processed"]
            answers = Asked()
            while len(answers.answers_ms) < 5 and sum(answers.answers_ms) < 10_000:
                began = time.perf_counter()
                http.get("/v1/jobs", params=params).raise_for_status()
                answers.answers_ms.append(1000 * (time.perf_counter() - began))
            made = service.redis.info("stats")["total_commands_processed"] - calls
            yield what, f"{answers.percentile(0.5)} ms, {made / len(answers.answers_ms):.0f} Redis commands"


def idle(service: Running, size: Size) -> Iterable[Row]:
    seed(service, size.jobs)
    time.sleep(2)
    before_s, before_bytes = service.cpu_s, service.redis.info("persistence")["aof_current_size"]
    time.sleep(IDLE_S)
    yield "CPU", f"{100 * (service.cpu_s - before_s) / IDLE_S:.1f} % of a core"
    written = service.redis.info("persistence")["aof_current_size"] - before_bytes
    yield "written to Redis' file", f"{written / IDLE_S / 1e3:.1f} kB per second"


MEASURES: dict[str, Callable[[Running, Size], Iterable[Row]]] = {
    "watchers": watchers,
    "half-open": half_open,
    "submit": submit,
    "list": listings,
    "idle": idle,
}


def seed(service: Running, jobs: int) -> None:
    """Queued jobs of all owners in turn."""
    with service.http() as http:
        first = http.post("/v1/jobs", json=service.spec).json()
    spec = json.dumps(first["spec"])
    for number in range(jobs - 1):
        owner = f"owner-{number % OWNERS}"
        service.call("submit", f"seed{number}", owner, spec, 0, 1, 1, 3, "", "", 0, *LATER_ARGUMENTS)


LATER_ARGUMENTS: tuple[Any, ...] = ()


def heartbeat(service: Running) -> None:
    service.call(
        *("register", NODE, "host", "h", "ranks", "4", "gpus", "[]", "version", "1", "torch_version", "2"),
        *("catalog", '{"methods": [], "tasks": []}'),
    )


def scheduled(service: Running, job: str) -> int | None:
    service.call("heartbeat", NODE)
    state, attempt = service.redis.hmget(f"ladle:job:{job}", ["state", "attempt"])
    return int(attempt) if state == "scheduled" else None


def health(asked: Asked) -> Iterable[Row]:
    yield "`/healthz`, p50 and p99", percentiles(asked)
    yield "`/healthz`, longest", f"{asked.percentile(1.0)} ms" if asked.answers_ms else "no answer"
    yield "`/healthz`, no answer in 5 s", f"{asked.failures} of {asked.failures + len(asked.answers_ms)}"


def percentiles(asked: Asked) -> str:
    return f"{asked.percentile(0.5)} and {asked.percentile(0.99)} ms" if asked.answers_ms else "no answer"


def markdown(result: Mapping[str, Any]) -> str:
    """The page of results."""
    table = table_lines(
        ("measure", "what", "before", "after"),
        [(row["measure"], row["what"], row["before"], row["after"]) for row in result["rows"]],
    )
    lines = [
        "# The service under load and attack",
        "",
        f"Before: `{result['before']}`. After: `{result['after']}`. Both in one run of `{result['command']}`",
        f"on {result['machine']}, which other work shared: the load average was {result['load_average']}, so times are",
        "longer than on a quiet machine. `benchmarks/load.py` says what each measure does.",
        "",
        *table,
    ]
    return "\n".join(lines) + "\n"


def device_name_of_host() -> str:
    import torch

    return f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores"


def commit(name: str) -> str:
    done = subprocess.run(["git", "rev-parse", "--short", name], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _wait(predicate: Callable[[], bool], timeout_s: float, interval_s: float = 0.1) -> None:
    """Until it is true, or no longer than this."""
    deadline = time.monotonic() + timeout_s
    while not predicate() and time.monotonic() < deadline:
        time.sleep(interval_s)


def _start(arguments: list[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    end_too = end_with_parent(signal.SIGKILL)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def prepare() -> None:
        if end_too is not None:
            end_too()
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_FILES, hard))

    with log.open("ab") as output:
        return subprocess.Popen(
            arguments,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
            cwd=log.parent,
        )


def _is_ready(service: Running) -> bool:
    try:
        with service.http() as http:
            return http.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def _token(owner: int) -> str:
    return f"token-of-owner-{owner}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
