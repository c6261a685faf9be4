"""Does Ladle work on this GPU, and how fast is it? One command, under ten minutes.

    python benchmarks/gpu_check.py [--out FOLDER] [--quick] [--only PART ...]

It needs the engine's own packages (torch, numpy, safetensors, psutil, Pillow) and nothing installed of Ladle itself; a
part that needs more (rich, transformers) is skipped where that is missing. Checks come first, then benchmarks for as
long as time is left. After every part two files are written, gpu-check-<GPU>.json and .md. The exit status is 0 when
all went well, 1 when something failed, 2 when there is no such device. See docs/gpu.md.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = [str(REPOSITORY / folder) for folder in ("worker", "examples/small-cnn", "benchmarks")]
sys.path[:0] = SOURCES

import argparse  # noqa: E402
import importlib  # noqa: E402
import shlex  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any  # noqa: E402

from gpu.machine import machine  # noqa: E402
from gpu.parts import Budget, Found, Part, Setting  # noqa: E402
from gpu.results import summary, write  # noqa: E402
from gpu.worker import FAILED, SKIPPED, Orders, Record, Worker  # noqa: E402
from measuring import RESULTS  # noqa: E402

CHECK_S = 240.0
"""What one check may take before it counts as hanging."""
LATE_S = 60.0
"""By how much a benchmark may be late."""
MACHINE = "machine"


def later(module: str, function: str) -> Callable[[Setting], Found]:
    """A function whose module is imported when it runs: it may need what is not installed."""

    def run(setting: Setting) -> Found:
        found: Found = getattr(importlib.import_module(module), function)(setting)
        return found

    return run


def describe(setting: Setting) -> Found:
    return Found(figures=machine(setting.device))


PARTS = [
    Part(
        name="kernels",
        summary="The Triton kernels give the exact sums at many shapes, and the engine takes them.",
        run=later("gpu.kernels", "kernels"),
        needs=("triton",),
    ),
    Part(
        name="precisions",
        summary="At every precision, coefficients are those that the CPU trains, within the documented bounds.",
        run=later("gpu.coefficients", "precisions"),
    ),
    Part(
        name="methods",
        summary="Every trained method ends with the CPU's coefficients; one of the models has BatchNorm.",
        run=later("gpu.coefficients", "methods"),
    ),
    Part(
        name="placements",
        summary="Every placement, on one rank and on several, ends with the CPU's coefficients.",
        run=later("gpu.placements", "placements"),
    ),
    Part(
        name="determinism",
        summary="A second run gives the same bits, in this process and in another.",
        run=later("gpu.repeats", "determinism"),
    ),
    Part(
        name="resume",
        summary="A run that was cut or killed in the middle and taken up again ends with the bits of a whole one.",
        run=later("gpu.repeats", "resume"),
    ),
    Part(
        name="memory",
        summary="The memory plan holds; without room the precision is lowered, or the job refused.",
        run=later("gpu.memory", "memory"),
        needs_gpu=True,
    ),
    Part(
        name="auto-job",
        summary="A whole job with `auto`, by stage; its model can be rebuilt and is as good as the report says.",
        run=later("gpu.whole", "auto_job"),
        needs=("rich",),
    ),
    Part(
        name="rows",
        summary="How much of the memory's bandwidth the directions' products use, as a share of a plain read.",
        run=later("gpu.tables", "rows"),
        is_check=False,
        needs=("rich", "transformers"),
    ),
    Part(
        name="steps",
        summary="What a step of coefficients costs over the same step of plain SGD.",
        run=later("gpu.tables", "steps"),
        is_check=False,
        needs=("rich", "transformers"),
    ),
]
"""In the order in which they run."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    # For the ranks, which are programs of their own.
    os.environ["PYTHONPATH"] = os.pathsep.join([*SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    budget = Budget(seconds=60 * options.minutes)
    parts = [part for part in PARTS if part.name in (options.only or [part.name for part in PARTS])]
    known = {part.name: part for part in [*parts, Part(name=MACHINE, summary="", run=describe)]}
    worker = Worker(Orders(parts=known, device=options.device, quick=options.quick, budget=budget))
    try:
        described = worker.run(MACHINE, CHECK_S, lambda found: None)
        if described["status"] == FAILED:
            print(f"`--device` must be one that torch can use here, but is {options.device}: {described['reason']}")
            return 2
        return _run_all(parts, worker, options, budget, described["figures"])
    finally:
        worker.end()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the two files (benchmarks/results)")
    parser.add_argument("--device", default="cuda", help="cuda; with cpu the check itself is tried, on tiny sizes")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART", help="only these")
    parser.add_argument("--minutes", type=float, default=9.0, help="benchmarks are left out when this is used up (9)")
    return parser.parse_args(arguments)


def _run_all(
    parts: Sequence[Part], worker: Worker, options: argparse.Namespace, budget: Budget, on: dict[str, Any]
) -> int:
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/gpu_check.py", *sys.argv[1:]]),
        "quick": options.quick,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": on,
        "parts": [],
    }

    def keep(part: Part, record: Record, rest: Sequence[Part]) -> Path:
        """Writes what is known: `record`, and that the rest has not run."""
        result["seconds"] = round(budget.seconds - budget.left_s(), 1)
        waiting = [_entry(each, {"status": "not run"}) for each in rest]
        return write(options.out, {**result, "parts": [*result["parts"], _entry(part, record), *waiting]})

    file = options.out
    for number, part in enumerate(parts):
        rest = parts[number + 1 :]
        keep(part, {"status": "running"}, rest)
        reason = _reason_to_skip(part, options.device, budget)
        if reason:
            record: Record = {"status": SKIPPED, "reason": reason}
        else:
            allowed_s = CHECK_S if part.is_check else budget.left_s() + LATE_S
            record = worker.run(
                part.name,
                allowed_s,
                lambda found, part=part, rest=rest: keep(part, {"status": "running", **found}, rest),
            )
        file = keep(part, record, rest)
        result["parts"].append(_entry(part, record))
        print(_said(part, record), flush=True)
    print(f"{summary(result)} Figures: {file} and .md")
    return 1 if any(part["status"] == FAILED for part in result["parts"]) else 0


def _entry(part: Part, record: Record) -> Record:
    return {"name": part.name, "kind": "check" if part.is_check else "benchmark", "summary": part.summary, **record}


def _reason_to_skip(part: Part, device: str, budget: Budget) -> str | None:
    if part.needs_gpu and not device.startswith("cuda"):
        return f"it needs a GPU, but `--device` is {device}"
    if missing := [package for package in part.needs if importlib.util.find_spec(package) is None]:
        return f"it needs {' and '.join(missing)}, which is not installed"
    if not part.is_check and not budget.allows(0.0):
        return f"the {budget.seconds / 60:g} minutes are used up"
    return None


def _said(part: Part, record: Record) -> str:
    text = record.get("reason") or record.get("says") or ""
    return f"{part.name:12} {record['status']:8} {record.get('seconds', 0.0):6.1f} s  {text}"


if __name__ == "__main__":
    sys.exit(main())
