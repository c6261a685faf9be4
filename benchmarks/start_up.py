"""From a submit to the stage "checking checkpoints": with a launcher that waits, with one that is started, and the same
engine call in a running interpreter.

    python benchmarks/start_up.py [--repeats 5] [--quick]

Real Redis, service and workers on this machine: one worker with a launcher that waits (`LADLE_STANDBY`), one without.
The job is small: four checkpoints of a small CNN. The three take turns. A launcher that waits has finished its imports
before its job comes. Moments are those at which the service's events say that a stage began; the engine's are its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from measuring import held, median, parser_of, save, table_lines
from rich.console import Console

from ladle_contracts import JobSpec, JobState
from ladle_contracts import StageStarted as ContractStage
from ladle_engine import average
from ladle_engine.progress import ProgressEvent, StageStarted

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tests.builders import make_checkpoints, make_val_set  # noqa: E402
from tests.integration.life import cluster  # noqa: E402
from tests.polling import until  # noqa: E402
from tests.servers import Process, RedisServer, redis_server, running, worker_process  # noqa: E402

GOAL_S = 1.5
STAGE = "check"
SIDES = {
    "warm": "a worker whose launcher waits",
    "cold": "a worker without one",
    "engine": "`average` in a running interpreter",
}
METHOD: dict[str, Any] = {"name": "twa", "options": {"steps": 20}}


def main() -> None:
    parser = parser_of(__doc__, quick="once", cpu_only=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else arguments.repeats
    with tempfile.TemporaryDirectory(prefix="ladle-start-up-") as temporary:
        result = measure(Path(temporary), repeats)
    text = markdown(result)
    console = Console()
    console.print(text)
    console.print(save("start-up", result | {"quick": arguments.quick}, text, quick=arguments.quick))


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    data = folder / "data"
    make_checkpoints(data / "checkpoints")
    make_val_set(data / "val.npz")
    of_engine(data, folder / "untimed")
    times: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    memory_mb = 0
    for turn in range(repeats):
        for name, standby in (("warm", "1"), ("cold", "0")):
            own = folder / f"{name}-{turn}"
            own.mkdir()
            with redis_server(own) as server, running(the_worker(own, server, data, standby)) as worker:
                if standby == "1":
                    memory_mb = max(memory_mb, when_it_waits(worker))
                times[name].append(of_worker(server, data))
        times["engine"].append(of_engine(data, folder / f"engine-{turn}"))
    found = {
        name: {"check_s": median(each["check"] for each in sides), "end_s": median(each["end"] for each in sides)}
        for name, sides in times.items()
    }
    return {"repeats": repeats, "waiting_mb": memory_mb, "load": psutil.getloadavg()[0], **found}


def the_worker(folder: Path, server: RedisServer, data: Path, standby: str) -> Process:
    # As long as they are by default, not as tests have them.
    return worker_process(folder, server, data, STANDBY=standby, POLL_S="0.25", LEASE_S="15", HEARTBEAT_S="2")


def when_it_waits(worker: Process) -> int:
    """Returns when the imports are done: its memory in megabytes, without what it shares."""

    def waits() -> psutil.Process | None:
        for process in worker.tree():
            # It sleeps until its socket has something to read.
            with suppress(psutil.Error, OSError):
                if "--wait" in process.cmdline() and "wait_for_more_packets" in wchan(process):
                    return process
        return None

    found = until(waits, what="a launcher that waits")
    assert found is not None
    return round(found.memory_full_info().uss / 1e6)


def wchan(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/wchan").read_text()


def of_worker(server: RedisServer, data: Path) -> dict[str, float]:
    """Seconds from the submit."""
    with cluster(server) as made:
        until(lambda: made.call(made.store.nodes()), what="the node to register")
        spec = JobSpec.model_validate(
            {"ckpt_dir": str(data / "checkpoints"), "val_set": str(data / "val.npz"), "method": METHOD}
        )
        job = made.submit(spec)
        record = made.finish(job)
        assert record.state == JobState.SUCCEEDED, record
        events = made.events(job)
        began = record.created_at
        check = next(each for each in events if isinstance(each.body, ContractStage) and each.body.stage == STAGE)
        assert record.finished_at is not None
        return {
            "check": (check.time - began).total_seconds(),
            "end": (record.finished_at - began).total_seconds(),
        }


def of_engine(data: Path, output: Path) -> dict[str, float]:
    """Seconds from the call."""
    stages: dict[str, float] = {}
    began = time.perf_counter()

    def note(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            stages.setdefault(event.stage, time.perf_counter() - began)

    average(
        data / "checkpoints",
        data / "val.npz",
        output=output,
        method=METHOD["name"],
        method_options=METHOD["options"],
        progress=note,
    )
    return {"check": stages[STAGE], "end": time.perf_counter() - began}


def markdown(result: Mapping[str, Any]) -> str:
    rows = [(words, f"{result[name]['check_s']:.2f}", f"{result[name]['end_s']:.2f}") for name, words in SIDES.items()]
    verdict = held(result["warm"]["check_s"] < GOAL_S)
    return "\n".join(
        [
            f"A job of four small checkpoints, median of {result['repeats']}, in turn. Load of the machine: "
            f"{result['load']:.1f}.",
            "",
            *table_lines(("", 'to "checking checkpoints", s', "to the end, s"), rows),
            "",
            f"Under {GOAL_S:g} s with a launcher that waits: {verdict}. "
            f"It holds {result['waiting_mb']} MB while it waits.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
