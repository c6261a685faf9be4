"""What listings cost with many jobs in Redis: `python benchmarks/listings.py [--jobs 10000]`.

Milliseconds that pass, milliseconds of CPU time (this process and Redis together), round trips to Redis, and bytes of
the page, for filters that match all, few and none. `benchmarks/load.py` compares some of them with an earlier commit.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ladle.cli.stack import find_redis
from ladle_contracts import JobSpec, JobState
from ladle_contracts.processes import end_with_parent
from ladle_contracts.transitions import SCRIPTS
from ladle_service.store import JobStore

OWNERS = ("ann", "bob", "cyd", "dan")
REPEATS = 10
START_S = 60.0

FILTERS: dict[str, dict[str, Any]] = {
    "first page, all owners": {"owner": None},
    "first page of one owner": {"owner": "ann"},
    "500 jobs of one owner": {"owner": "ann", "limit": 500},
    "state that few have": {"owner": None, "state": JobState.CANCELLED},
    "state that nobody has": {"owner": None, "state": JobState.RUNNING},
    "label that all have": {"owner": None, "labels": {"team": "x"}},
    "label of one job": {"owner": None, "labels": {"number": "17"}},
    "label that nobody has": {"owner": None, "labels": {"number": "none"}},
    "20 labels, the last one wrong": {
        "owner": None, "labels": {f"same-{number}": "x" for number in range(19)} | {"number": "none"},
    },
    "state and label that never meet": {"owner": "ann", "state": JobState.QUEUED, "labels": {"number": "none"}},
    "an owner without jobs": {"owner": "nobody"},
}  # fmt: skip


@contextmanager
def running(arguments: list[str]) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent(signal.SIGKILL),
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_redis(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Redis with an append-only file, as a cluster's, on a socket of its own."""
    binary = find_redis()
    assert binary is not None, "install ladle[local]"
    socket = folder / "redis.sock"
    arguments = [
        *(binary, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--auto-aof-rewrite-percentage", "0", "--maxmemory-policy", "noeviction"),
    ]
    with running(arguments) as process:
        _wait(lambda: _answers(f"unix://{socket}"))
        yield process, f"unix://{socket}"


def fill(client: Any, jobs: int, *, cancelled_every: int = 100) -> None:
    """Queued jobs of four owners, each with 21 labels; a few of them cancelled."""
    submit, cancel = (client.register_script(SCRIPTS[name]) for name in ("submit", "cancel"))
    same = {"team": "x"} | {f"same-{number}": "x" for number in range(19)}
    for number in range(jobs):
        job = f"job-{number:06}"
        spec = JobSpec(ckpt_dir="/data/run/checkpoints", val_set="/data/val", labels={**same, "number": str(number)})
        submit(args=[job, OWNERS[number % 4], spec.model_dump_json(), 0, 1, 1, 3, "", "", 1000])
        if number % cancelled_every == 0:
            cancel(args=[job])
    if "index" in SCRIPTS:  # what the scheduler does when it starts
        fence, cursor = client.register_script(SCRIPTS["elect"])(args=["benchmark", 1]), ""
        while cursor != "0":
            cursor = client.register_script(SCRIPTS["index"])(args=[fence, cursor or "0", 200])


async def measure_listings(url: str, server: psutil.Process) -> dict[str, tuple[float, float, int, int]]:
    """Filter -> milliseconds (the median), milliseconds of CPU time, round trips to Redis, bytes of the page."""
    measured = {}
    async with Redis.from_url(url, decode_responses=True) as client:
        store = JobStore(client, client)
        await store.list("warm")
        for name, arguments in FILTERS.items():
            before, times, size = await _reads(client), [], 0
            cpu = _cpu(server) + time.process_time()
            for _ in range(REPEATS):
                began = time.perf_counter()
                page = await store.list(**arguments)
                times.append((time.perf_counter() - began) * 1000)
                size = len(page.model_dump_json())
            cpu = (_cpu(server) + time.process_time() - cpu) * 1000 / REPEATS
            trips = (await _reads(client) - before - 1) // REPEATS
            measured[name] = (statistics.median(times), cpu, trips, size)
    return measured


async def _reads(client: Any) -> int:
    return int((await client.info("stats"))["total_reads_processed"])


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False


def _wait(ready: Any) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        assert time.monotonic() < deadline, "a server did not start"
        time.sleep(0.05)


def print_table(listings: Mapping[str, tuple[float, float, int, int]]) -> None:
    print("| listing | ms | ms of CPU | round trips | bytes |\n| --- | --- | --- | --- | --- |")
    for name, (ms, cpu_ms, trips, size) in listings.items():
        print(f"| {name} | {ms:.1f} | {cpu_ms:.1f} | {trips} | {size:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_redis(Path(name)) as (server, url):
        with redis.Redis.from_url(url, decode_responses=True) as client:
            fill(client, given.jobs)
        print_table(asyncio.run(measure_listings(url, server)))


if __name__ == "__main__":
    main()
