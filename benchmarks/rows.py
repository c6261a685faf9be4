"""How much of the memory's bandwidth the engine's rows use: `project` and `expand_into` at every precision tier.

    python benchmarks/rows.py [--device cuda] [--threads 1 2] [--quick]

Each figure is a share of a plain read, which is timed in turn with it: the fastest of torch's sum, dot product, product
of a matrix with a short vector, and copy (its writes count too) of a float32 tensor far larger than the caches, with
the same threads. What counts as moved is what must be: the stored rows, and the gradient once (`project`) or the output
read and written (`expand_into`). Medians of interleaved repeats of 50 ms or more.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from measuring import device_name, held, median, parser_of, save, slug, table_lines
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ladle_engine.directions.formats import BLOCK, ROW_PRECISIONS, Rows, row_bytes
from ladle_engine.directions.resident_rows import ResidentRows
from ladle_engine.versions import versions

COUNTS = (10, 100, 300)
FILL_ELEMENTS = 1 << 22
SHORTEST_S = 0.05
"""What a repeat takes at least, in as many calls as that needs."""
READ_WIDTH = 4096
"""Of the matrix in a plain read: the vector stays in the nearest cache."""
GPU_GOALS = dict.fromkeys(ROW_PRECISIONS, 0.8)
CPU_GOALS = {"float32": 0.6}


def main() -> None:
    parser = parser_of(__doc__, quick="a quarter of the bytes and of the repeats")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch on the CPU")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    size = (1536 << 20 if device.type == "cuda" else 640 << 20) // (4 if arguments.quick else 1)
    repeats = 4 if arguments.quick else 15
    console = Console()
    runs = []
    # Larger than the rows of any tier, and than any cache.
    plain = torch.ones(size // 4, device=device)
    for threads in arguments.threads if device.type == "cpu" else [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        for precision in ROW_PRECISIONS:
            for count in COUNTS:
                runs.append({"threads": threads, **measure(precision, count, size, repeats, plain)})
        console.print(table_of(runs, threads))
    name = device_name(device)
    result = {
        "device": name,
        "quick": arguments.quick,
        "repeats": repeats,
        "versions": versions(),
        "verdicts": verdicts(runs, device),
        "runs": runs,
    }
    console.print(*result["verdicts"], sep="\n")
    console.print(save(f"rows-{slug(name)}", result, markdown(result), quick=arguments.quick))


def measure(precision: str, count: int, size: int, repeats: int, plain: Tensor) -> dict[str, Any]:
    """Rows that take about `size` bytes."""
    length = size // count // row_bytes(precision, BLOCK) * BLOCK
    rows = filled(precision, count, length, plain.device)
    gradient_P = torch.randn(length, device=plain.device)
    weights_N = torch.randn(count, device=plain.device)
    out_P = torch.zeros(length, device=plain.device)
    stored = count * row_bytes(precision, length)
    reads = plain_reads(plain)
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        **reads,
        "project": (lambda: rows.project(gradient_P), stored + 4 * length),
        "expand": (lambda: rows.expand_into(out_P, weights_N), stored + 8 * length),
    }
    # The first round warms up, the second says how many calls take long enough.
    calls = {}
    for name, (run, _) in jobs.items():
        seconds(run, 1, plain.device)
        calls[name] = math.ceil(SHORTEST_S / seconds(run, 1, plain.device))
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, (run, moved) in jobs.items():
            rates[name].append(moved / seconds(run, calls[name], plain.device) / 1e9)
    rows.close()
    fastest = max(reads, key=lambda name: statistics.median(rates[name]))
    # Each repeat against the plain read beside it: what else the machine does then disturbs both.
    share = {
        name: median(rate / read for rate, read in zip(rates[name], rates[fastest], strict=True))
        for name in ("project", "expand")
    }
    return {
        "tier": precision,
        "count": count,
        "length": length,
        "stored_bytes": stored,
        "fastest_read": fastest,
        "reads_gb_per_s": {name: median(rates[name], 2) for name in reads},
        "project_gb_per_s": median(rates["project"], 2),
        "expand_gb_per_s": median(rates["expand"], 2),
        "project_share": share["project"],
        "expand_share": share["expand"],
    }


def plain_reads(plain: Tensor) -> dict[str, tuple[Callable[[], object], int]]:
    """What reads as fast differs from machine to machine: some ways, each with the bytes that it moves."""
    first, second = plain.chunk(2)
    matrix, vector = plain.view(-1, READ_WIDTH), plain[:READ_WIDTH].clone()
    return {
        "sum": (plain.sum, plain.nbytes),
        "dot": (lambda: torch.dot(first, second), plain.nbytes),
        "matrix times vector": (lambda: torch.mv(matrix, vector), plain.nbytes),
        "copy": (lambda: second.copy_(first), plain.nbytes),
    }


def filled(precision: str, count: int, length: int, device: torch.device) -> Rows:
    """The same few million random elements over and over: quantising them all would take longer than measuring."""
    rows = ResidentRows.allocate(precision, count, length, device)
    step = FILL_ELEMENTS // count // BLOCK * BLOCK
    rows.fill(0, torch.randn(count, min(step, length)))
    for kept in (rows.codes_NQ, rows.scales_NB):
        if kept is not None:
            width = kept.shape[1] * step // length
            for start in range(width, kept.shape[1], width):
                kept[:, start : start + width] = kept[:, : min(width, kept.shape[1] - start)]
    return rows


def seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Of one call. On a GPU by its own clock: one call is hardly longer than what it takes to start it."""
    if device.type == "cuda":
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(calls):
            run()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000 / calls
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def verdicts(runs: Sequence[Mapping[str, Any]], device: torch.device) -> list[str]:
    """The goals: every tier on a GPU, float32 on a CPU."""
    lines = []
    for precision, goal in GPU_GOALS.items() if device.type == "cuda" else CPU_GOALS.items():
        lowest = min(
            run[name] for run in runs if run["tier"] == precision for name in ("project_share", "expand_share")
        )
        lines.append(
            f"{precision}: {100 * lowest:.0f} % at least; the goal of {100 * goal:.0f} % {held(lowest >= goal)}."
        )
    return lines


HEADER = ("tier", "N", "P", "plain read, GB/s", "by", "project", "expand")


def table_of(runs: Iterable[Mapping[str, Any]], threads: int) -> Table:
    table = Table(*HEADER, title=f"{threads} thread(s)")
    for run in runs:
        if run["threads"] == threads:
            table.add_row(*cells_of(run))
    return table


def cells_of(run: Mapping[str, Any]) -> list[str]:
    shares = [f"{100 * run[name]:.0f} %" for name in ("project_share", "expand_share")]
    fastest = run["fastest_read"]
    read = f"{run['reads_gb_per_s'][fastest]:.1f}"
    return [run["tier"], str(run["count"]), f"{run['length']:,}", read, fastest, *shares]


def markdown(result: Mapping[str, Any]) -> str:
    lines = [
        f"# Rows on {result['device']}",
        "",
        f"Made by `python benchmarks/rows.py{' --quick' if result['quick'] else ''}`. Bytes moved per second as a "
        f"share of the fastest of four plain reads of a large float32 tensor (sum, dot, matrix times vector, and copy, "
        f"whose writes count; same threads; column *by*), median of {result['repeats']} interleaved repeats of 50 ms "
        f"or more. Moved: the stored rows, and the gradient once (project) or the output read and written (expand).",
        "",
        *(f"- {line}" for line in result["verdicts"]),
        "",
        *table_lines(("threads", *HEADER), ([str(run["threads"]), *cells_of(run)] for run in result["runs"])),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
