"""Twenty simulated nodes take a thousand jobs: `python benchmarks/scheduling.py [--quick]`.

The nodes have no engine: their work is a pause. Claims, scripts, the two schedulers and Redis are the real ones.
Messages get lost or come twice, jobs crash, nodes restart in the middle of a job, and the elected scheduler dies at
half time. `tests/integration/simulation.py` has the simulation, and a test runs a short form of it.

The quarters are those of the jobs that ended while the queue was as long as it gets. Besides: what one decision costs
with a longer queue, and with more owners.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from listings import running_redis
from measuring import device_name, held, parser_of, save, table_lines
from torch import device

from ladle_contracts.transitions import SCRIPTS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

import ladle_service.upkeep  # noqa: E402
from tests.integration.simulation import Log, Shape, simulate  # noqa: E402

FULL = Shape(jobs=1000, nodes=20, backlog=100, work_s=(0.1, 1.0), kept=100)
QUICK = Shape(jobs=120, nodes=20, backlog=30, work_s=(0.05, 0.2), kept=20)
OWNERS = ("ann", "bob", "cyd")
QUEUES = ((100, 4), (1_000, 4), (10_000, 4), (10_000, 100))
"""Jobs, owners."""
DECISIONS = 50
FLAT = 1.25
"""The late quarter may be larger by this factor."""


def main() -> None:
    arguments = parser_of(__doc__, quick="120 jobs and shorter queues", cpu_only=True).parse_args()
    shape = QUICK if arguments.quick else FULL
    ladle_service.upkeep.SWEEP_S = 1.0
    with tempfile.TemporaryDirectory() as name, running_redis(Path(name)) as (_, url):
        load, began = os.getloadavg()[0], time.monotonic()
        log = asyncio.run(simulate(url, Path(name), shape, takeover=True))
        took_s = time.monotonic() - began
        queues = [(jobs // (10 if arguments.quick else 1), owners) for jobs, owners in QUEUES]
        decisions = [{"jobs": jobs, "owners": owners, "ms": decision_ms(url, jobs, owners)} for jobs, owners in queues]
    result = {
        "machine": device_name(device("cpu")),
        "cores": os.cpu_count(),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "took_s": round(took_s),
        "jobs": shape.jobs,
        "nodes": shape.nodes,
        "happened": dict(sorted(log.counts.items())),
        "not_once": sum(count != 1 for count in log.succeeded.values()) + len(log.submitted) - len(log.succeeded),
        "overlaps": len(log.overlaps),
        "overtaken": len(log.overtaken()),
        "waits": [wait_of(log, owner) for owner in OWNERS],
        "quarters": [quarter_of(log, shape, number) for number in range(4)],
        "decisions": decisions,
    }
    text = report(result)
    print(text)
    print(save("scheduling", result, text, quick=arguments.quick))


def wait_of(log: Log, owner: str) -> dict[str, Any]:
    waits = log.waits_s(owner)
    return {
        "owner": owner,
        "jobs": len(waits),
        "median_s": round(statistics.median(waits), 1),
        "longest_s": round(max(waits), 1),
    }


def quarter_of(log: Log, shape: Shape, number: int) -> dict[str, Any]:
    """Of the jobs that ended before the queue got shorter."""
    size = (shape.jobs - shape.backlog) / 4

    def within(samples: Sequence[tuple[int, float]]) -> list[float]:
        return [value for ended, value in samples if number * size <= ended < (number + 1) * size]

    rounds, memory = within(log.ticks), within(log.memory)
    return {
        "rounds": len(rounds),
        "round_ms": round(1000 * statistics.median(rounds), 1),
        "round_p99_ms": round(1000 * statistics.quantiles(rounds, n=100)[98], 1),
        "memory_kb": round(statistics.mean(memory) / 1000),
    }


def decision_ms(url: str, jobs: int, owners: int) -> float:
    """How long `next` takes: nothing is free, and it looks at every lane. The median."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushall()

        def call(script: str, *given: Any) -> Any:
            return client.register_script(SCRIPTS[script])(args=given)

        fence = call("elect", "benchmark", 600_000)
        for number in range(20):
            call("register", f"node-{number}", "ranks", 1, "catalog", "{}")
        for number in range(jobs):
            needed = (1, 2, 4)[number % 3]
            call("submit", f"job-{number}", f"owner-{number % owners}", "{}", 0, needed, 1, 3, "", "", 1000)
        while found := call("next", fence, 60_000, 30_000):
            call("schedule", fence, found[0], 30_000, 60_000, *found[1:])
        times = []
        for _ in range(DECISIONS):
            began = time.perf_counter()
            call("next", fence, 60_000, 30_000)
            times.append(1000 * (time.perf_counter() - began))
        return round(statistics.median(times), 2)


def report(result: dict[str, Any]) -> str:
    first, last = result["quarters"][0], result["quarters"][-1]
    loop, memory = last["round_ms"] / first["round_ms"], last["memory_kb"] / first["memory_kb"]
    happened = ", ".join(f"{what}: {count}" for what, count in result["happened"].items())
    once = result["not_once"] == result["overlaps"] == 0
    return "\n".join(
        [
            "# Twenty simulated nodes take a thousand jobs",
            "",
            f"`python benchmarks/scheduling.py` on {result['machine']}, {result['cores']} cores, which other work",
            f"shared: the load average was {result['load_average'][0]} to {result['load_average'][1]}.",
            f"{result['jobs']} jobs of 1 to 8 nodes on {result['nodes']} nodes took {result['took_s']} s. Meanwhile:",
            f"{happened}.",
            "",
            f"- Every job succeeded once, and never ran twice at the same time: {held(once)} "
            f"({result['not_once']} and {result['overlaps']} exceptions).",
            f"- No job was overtaken by a later one of the same owner and need: {held(result['overtaken'] == 0)} "
            f"({result['overtaken']} exceptions).",
            f"- The scheduler's round takes at most {FLAT} times as long late as early: {held(loop <= FLAT)} "
            f"({loop:.2f}).",
            f"- Redis uses at most {FLAT} times as much memory late as early: {held(memory <= FLAT)} ({memory:.2f}).",
            "",
            *table_lines(
                ("quarter", "rounds", "round, median", "round, p99", "Redis' memory"),
                [
                    (
                        *(str(number + 1), str(each["rounds"]), f"{each['round_ms']} ms", f"{each['round_p99_ms']} ms"),
                        f"{each['memory_kb']:,} kB",
                    )
                    for number, each in enumerate(result["quarters"])
                ],
            ),
            "",
            "One owner has a job now and then, and does not wait for those of the others:",
            "",
            *table_lines(
                ("owner", "jobs", "waits, median", "waits, longest"),
                [
                    (each["owner"], str(each["jobs"]), f"{each['median_s']} s", f"{each['longest_s']} s")
                    for each in result["waits"]
                ],
            ),
            "",
            "What one decision costs, with three needs for each owner:",
            "",
            *table_lines(
                ("jobs in the queue", "owners", "time"),
                [(f"{each['jobs']:,}", str(each["owners"]), f"{each['ms']} ms") for each in result["decisions"]],
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
