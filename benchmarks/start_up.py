"""From a submit to the stage "checking checkpoints": with a launcher that waits, with one that is started, and the same
engine call in a running interpreter.

    python benchmarks/start_up.py [--repeats 5] [--quick]

Real Redis, service and workers on this machine: one worker with a launcher that waits (`LADLE_STANDBY`), one without.
The job is small: four checkpoints of a small CNN. The three take turns. A launcher that waits has finished its imports
before its job comes. Moments are those at which the service's events say that a stage began; the engine's are its own.
And a whole job of `auto` through a worker whose launcher waits, beside the same call in a script, in turn.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import whole_job
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
SMALL_METHOD: dict[str, Any] = {"name": "twa", "options": {"steps": 20}}
AUTO: dict[str, Any] = {"name": "auto", "options": {}}
WHOLE_CHECKPOINTS, WHOLE_IMAGES = 8, 2048


def main() -> None:
    parser = parser_of(__doc__, quick="once", cpu_only=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    repeats, whole_repeats = (1, 1) if arguments.quick else (arguments.repeats, max(arguments.repeats // 2, 1))
    with tempfile.TemporaryDirectory(prefix="ladle-start-up-") as temporary:
        small, whole = Path(temporary) / "small", Path(temporary) / "whole"
        make_checkpoints(small / "data/checkpoints")
        make_val_set(small / "data/val.npz")
        result = measure(small, SMALL_METHOD, SIDES, repeats)
        (whole / "data").mkdir(parents=True)
        whole_job.CONFIG["width"] = whole_job.QUICK_WIDTH
        whole_job.make(whole / "data", WHOLE_CHECKPOINTS, WHOLE_IMAGES // 4 if arguments.quick else WHOLE_IMAGES)
        result["whole"] = measure(whole, AUTO, ("warm", "engine"), whole_repeats)
    text = markdown(result)
    console = Console()
    console.print(text)
    console.print(save("start-up", result | {"quick": arguments.quick}, text, quick=arguments.quick))


def measure(folder: Path, method: Mapping[str, Any], sides: Iterable[str], repeats: int) -> dict[str, Any]:
    """Of one job, on the data in `folder`."""
    data = folder / "data"
    of_engine(data, folder / "untimed", method)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    memory_mb = 0
    for turn in range(repeats):
        for name in times:
            own = folder / f"{name}-{turn}"
            if name == "engine":
                times[name].append(of_engine(data, own, method))
                continue
            own.mkdir()
            standby = "1" if name == "warm" else "0"
            with redis_server(own) as server, running(the_worker(own, server, data, standby)) as worker:
                if name == "warm":
                    memory_mb = max(memory_mb, when_it_waits(worker))
                times[name].append(of_worker(server, data, method))
    found = {
        name: {key: median(each[key] for each in of_side) for key in ("check_s", "end_s")}
        for name, of_side in times.items()
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


def of_worker(server: RedisServer, data: Path, method: Mapping[str, Any]) -> dict[str, float]:
    """Seconds from the submit."""
    with cluster(server) as made:
        until(lambda: made.call(made.store.nodes()), what="the node to register")
        spec = JobSpec.model_validate(
            {"ckpt_dir": str(data / "checkpoints"), "val_set": str(data / "val.npz"), "method": method}
        )
        job = made.submit(spec)
        record = made.finish(job)
        assert record.state == JobState.SUCCEEDED, record
        events = made.events(job)
        began = record.created_at
        check = next(each for each in events if isinstance(each.body, ContractStage) and each.body.stage == STAGE)
        assert record.finished_at is not None
        return {
            "check_s": (check.time - began).total_seconds(),
            "end_s": (record.finished_at - began).total_seconds(),
        }


def of_engine(data: Path, output: Path, method: Mapping[str, Any]) -> dict[str, float]:
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
        method=method["name"],
        method_options=method["options"],
        progress=note,
    )
    return {"check_s": stages[STAGE], "end_s": time.perf_counter() - began}


def markdown(result: Mapping[str, Any]) -> str:
    rows = [(words, f"{result[name]['check_s']:.2f}", f"{result[name]['end_s']:.2f}") for name, words in SIDES.items()]
    verdict = held(result["warm"]["check_s"] < GOAL_S)
    whole = result["whole"]
    through, call = whole["warm"]["end_s"], whole["engine"]["end_s"]
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
            f"`auto` on {WHOLE_CHECKPOINTS} checkpoints of a wider CNN, median of {whole['repeats']}, in turn: "
            f"{through:.1f} s from the submit through a worker whose launcher waits, {call:.1f} s as a call of "
            f"`average` in a running interpreter, so {through / call:.2f} times. Load of the machine: "
            f"{whole['load']:.1f}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
