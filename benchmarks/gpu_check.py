"""Does Ladle work on this GPU, and how fast is it? One command, under ten minutes.

    python benchmarks/gpu_check.py [--out FOLDER] [--quick] [--only PART ...]

It needs the engine's own packages (torch, numpy, safetensors, psutil, Pillow) and nothing installed of Ladle itself; a
part that needs more (rich, transformers) is skipped where that is missing. Checks come first, then benchmarks for as
long as time is left. After every part two files are written, gpu-check-<GPU>.json and .md. The exit status is 0 when
all went well, 1 when something failed, 2 when there is no such device. See docs/gpu.md.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("worker", "client", "examples/small-cnn", "benchmarks")]

import argparse  # noqa: E402
import importlib  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

from gpu.machine import machine  # noqa: E402
from gpu.parts import Budget, Found, Part, Setting  # noqa: E402
from gpu.results import summary, write  # noqa: E402
from gpu.worker import FAILED, NOT_RUN, SKIPPED, Orders, Record, Worker  # noqa: E402
from measuring import RESULTS  # noqa: E402

from ladle_engine.pipeline.splits import usable_device  # noqa: E402

MINUTES = 9.0
CHECK_S = 300.0
"""What one check may take before it counts as hanging."""
LATE_S = 30.0
"""By how much a benchmark may be late."""


def later(module: str, function: str) -> Callable[[Setting], Found]:
    """A function whose module is imported when it runs: it may need what is not installed."""

    def run(setting: Setting) -> Found:
        found: Found = getattr(importlib.import_module(module), function)(setting)
        return found

    return run


def describe(setting: Setting) -> Found:
    return Found(figures=machine(usable_device(setting.device)))


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
MACHINE = Part(name="machine", summary="What the figures are measured on.", run=describe)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    budget = Budget(seconds=60 * options.minutes)
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    known = {part.name: part for part in [*parts, MACHINE]}
    worker = Worker(Orders(parts=known, device=options.device, quick=options.quick, budget=budget))
    try:
        described = worker.run(MACHINE.name, CHECK_S, lambda found: None)
        if described["status"] == FAILED:
            print(described["reason"])
            return 2
        check = Check(options=options, budget=budget, worker=worker, machine=described["figures"], parts=parts)
        for part in parts:
            print(check.run(part), flush=True)
        print(f"{summary(check.result)} Figures: {check.save()} and .md")
        return check.status
    finally:
        worker.end()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the two files (benchmarks/results)")
    parser.add_argument("--device", default="cuda", help="cuda; with cpu the check itself is tried, on tiny sizes")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART", help="only these")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="then benchmarks are left out (%(default)g)")
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    """Without the folder, which is nobody else's."""
    words = ["python", "benchmarks/gpu_check.py"]
    words += ["--device", options.device] if options.device != "cuda" else []
    words += ["--quick"] if options.quick else []
    words += ["--only", *options.only] if options.only else []
    words += ["--minutes", f"{options.minutes:g}"] if options.minutes != MINUTES else []
    return " ".join(words)


class Check:
    """Runs parts, and keeps the two files up to date."""

    def __init__(
        self, *, options: argparse.Namespace, budget: Budget, worker: Worker, machine: Record, parts: Sequence[Part]
    ) -> None:
        self._options = options
        self._budget = budget
        self._worker = worker
        self._entries: dict[str, Record] = {
            part.name: {
                "name": part.name,
                "kind": "check" if part.is_check else "benchmark",
                "summary": part.summary,
                "status": NOT_RUN,
            }
            for part in parts
        }
        self.result: Record = {
            "command": _command(options),
            "quick": options.quick,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine,
            "parts": list(self._entries.values()),
        }

    @property
    def status(self) -> int:
        return 1 if any(entry["status"] == FAILED for entry in self.result["parts"]) else 0

    def run(self, part: Part) -> str:
        """A line for people."""
        entry = self._entries[part.name]

        def keep(found: Record) -> None:
            entry.update(found)
            self.save()

        keep({"status": "running"})
        if reason := self._reason_to_skip(part):
            keep({"status": SKIPPED, "reason": reason})
        else:
            allowed_s = CHECK_S if part.is_check else self._budget.left_s() + LATE_S
            keep(self._worker.run(part.name, allowed_s, keep))
        text = entry.get("reason") or entry.get("says") or ""
        return f"{part.name:12} {entry['status']:8} {entry.get('seconds', 0.0):6.1f} s  {text}"

    def save(self) -> Path:
        self.result["seconds"] = round(self._budget.seconds - self._budget.left_s(), 1)
        return write(self._options.out, self.result)

    def _reason_to_skip(self, part: Part) -> str | None:
        if missing := [package for package in part.needs if importlib.util.find_spec(package) is None]:
            return f"it needs {' and '.join(missing)}, which is not installed"
        if not part.is_check and not self._budget.allows(0.0):
            return f"the {self._options.minutes:g} minutes are used up"
        return None


if __name__ == "__main__":
    sys.exit(main())
