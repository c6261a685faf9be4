"""Submitting under concurrent clients, beside a bare FastAPI route that writes one Redis key, in the same run.

    python benchmarks/submit.py [--clients 50] [--rounds 5] [--quick]

Both are served by uvicorn in a process of their own, with the same Redis. One process has all clients; each sends its
next request when it has the answer to the last one. The two take turns, round by round, so that what else the machine
does meets both. No worker is there: nothing takes the jobs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from measuring import held, parser_of, save, table_lines
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tests.servers import Process, RedisServer, redis_server, running, service_process  # noqa: E402

TOKEN = "a-token-of-the-benchmark"
GOAL = 3.0
BARE = """
import os
from fastapi import FastAPI
from redis.asyncio import Redis

app = FastAPI()
store = Redis.from_url(os.environ["REDIS_URL"])

@app.post("/write", status_code=202)
async def write(body: dict) -> dict:
    await store.set("bare", body["ckpt_dir"])
    return {"id": "bare"}
"""


@dataclass(frozen=True)
class Server:
    """What is measured."""

    socket: Path
    process: psutil.Process

    @property
    def cpu_s(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)


@dataclass
class Times:
    """Seconds from each request to its answer, and what the server worked for all of them."""

    answers: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def main() -> None:
    parser = parser_of(__doc__, quick="one short round", cpu_only=True)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20, help="of each client in each round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.requests = 1, 5
    with tempfile.TemporaryDirectory(prefix="ladle-submit-") as temporary:
        folder = Path(temporary)
        (folder / "data").mkdir()
        (folder / "results").mkdir()
        with redis_server(folder) as server, bare_route(folder, server) as bare, service(folder, server) as ladle:
            with server.client() as client:
                # As Redis does by default, and docker-compose.yml.
                client.config_set("appendfsync", "everysec")
            times = asyncio.run(measure(folder, bare, ladle, arguments))
    result = {
        "clients": arguments.clients,
        "requests": arguments.rounds * arguments.requests * arguments.clients,
        "quick": arguments.quick,
        "load": psutil.getloadavg()[0],
        **{name: summary(each) for name, each in times.items()},
    }
    result["ratio_p99"] = round(result["submit"]["p99_ms"] / result["bare"]["p99_ms"], 2)
    text = markdown(result)
    console = Console()
    console.print(text)
    console.print(save("submit", result, text, quick=arguments.quick))


@contextmanager
def bare_route(folder: Path, server: RedisServer) -> Iterator[Server]:
    (folder / "bare.py").write_text(BARE)
    socket = folder / "bare.sock"
    command = [sys.executable, "-m", "uvicorn", "bare:app", "--uds", str(socket), "--app-dir", str(folder)]
    process = Process(arguments=command, environment={"REDIS_URL": server.url}, log=folder / "bare.log")
    with running(process):
        yield Server(socket, psutil.Process(process.pid))


@contextmanager
def service(folder: Path, server: RedisServer) -> Iterator[Server]:
    tokens = folder / "tokens"
    tokens.write_text(f"owner:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    tokens.chmod(0o600)
    settings = {"TOKENS_FILE": str(tokens), "MAX_QUEUED_JOBS_PER_OWNER": "1000000", "MAX_REQUESTS_PER_S": "1000000"}
    with running(service_process(folder, server, folder / "data", **settings)) as process:
        yield Server(folder / "api.sock", psutil.Process(process.pid))


async def measure(folder: Path, bare: Server, ladle: Server, arguments: Any) -> Mapping[str, Times]:
    spec = {"ckpt_dir": str(folder / "data"), "val_set": str(folder / "data"), "labels": {"run": "benchmark"}}
    sides = {
        "bare": (bare, request_bytes("/write", spec)),
        "submit": (ladle, request_bytes("/v1/jobs", spec)),
    }
    for server, request in sides.values():
        await until_it_answers(server.socket, request)
    times = {name: Times() for name in sides}
    # The first one is not counted.
    for turn in range(arguments.rounds + 1):
        for name, (server, request) in sides.items():
            clients = (one_client(server.socket, request, arguments.requests) for _ in range(arguments.clients))
            before = server.cpu_s
            found = await asyncio.gather(*clients)
            if turn:
                times[name].answers += [each for of_client in found for each in of_client]
                times[name].cpu_s += server.cpu_s - before
    return times


def request_bytes(path: str, body: Mapping[str, Any]) -> bytes:
    """Made once: a client library costs more than what is measured."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def one_client(socket: Path, request: bytes, count: int) -> list[float]:
    """Seconds of every request, over one connection."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    found = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.partition(b":")[2]))
        found.append(time.perf_counter() - began)
        assert head.startswith(b"HTTP/1.1 202"), head + body
    writer.close()
    return found


async def until_it_answers(socket: Path, request: bytes) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            await one_client(socket, request, 1)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def summary(times: Times) -> dict[str, float]:
    cuts = statistics.quantiles(times.answers, n=100)
    return {
        "p50_ms": round(cuts[49] * 1e3, 1),
        "p99_ms": round(cuts[98] * 1e3, 1),
        "cpu_ms": round(times.cpu_s / len(times.answers) * 1e3, 2),
    }


def markdown(result: Mapping[str, Any]) -> str:
    rows = [
        (words, f"{result[name]['p50_ms']}", f"{result[name]['p99_ms']}", f"{result[name]['cpu_ms']}")
        for name, words in (("bare", "a bare route that writes one key"), ("submit", "`POST /v1/jobs`"))
    ]
    verdict = held(result["ratio_p99"] <= GOAL)
    goal = f"p99 within {GOAL:g} times the bare route: {result['ratio_p99']} times, which {verdict}."
    head = (
        f"{result['clients']} concurrent clients, {result['requests']} requests each side, in turn. "
        f"Load of the machine: {result['load']:.1f}."
    )
    return "\n".join([head, "", *table_lines(("", "p50, ms", "p99, ms", "CPU of the server, ms"), rows), "", goal, ""])


if __name__ == "__main__":
    main()
