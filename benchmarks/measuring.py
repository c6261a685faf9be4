"""What the benchmarks share: their options, clocks, device names, and where figures go."""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def parser_of(doc: str | None, *, quick: str, cpu_only: bool = False) -> argparse.ArgumentParser:
    """With `--device` and `--quick`, which `make bench` gives to every benchmark; `quick` says what that does."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() and not cpu_only else "cpu",
        help="ignored: this measures the CPU" if cpu_only else "cuda where there is a GPU, else cpu",
    )
    parser.add_argument("--quick", action="store_true", help=f"{quick}; figures go to files that git ignores")
    return parser


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds; on a CPU of this process, which does not count what others on the machine do."""
    return time.perf_counter() if device.type == "cuda" else time.process_time() / torch.get_num_threads()


def clock_text(threads: int | None) -> str:
    """What `clock` measures; `threads` is None on a GPU."""
    return f"CPU time with {threads} thread(s)" if threads else "wall-clock time"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    return f"cpu {model[1] if model else platform.machine()}"


def slug(text: str) -> str:
    """Fit for a file's name."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def median(values: Iterable[float], digits: int = 3) -> float:
    return round(statistics.median(values), digits)


def span(values: Iterable[float]) -> str:
    """`6`, or `6 to 15`."""
    known = list(values)
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low} to {high}"


def held(holds: bool) -> str:
    return "holds" if holds else "is MISSED"


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """In Markdown."""
    return [
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def results_path(name: str, *, quick: bool = False) -> Path:
    return RESULTS / f"{name}{'-quick' if quick else ''}.json"


def save(name: str, result: Mapping[str, Any] | Sequence[Any], text: str, *, quick: bool = False) -> str:
    """Writes both forms, and returns a line that says where."""
    path = results_path(name, quick=quick)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    return f"Figures: {path.name} and .md in {RESULTS.name}"
