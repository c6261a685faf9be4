"""How much of the memory's bandwidth the engine's rows use: `project` and `expand_into` at every precision tier.

    python benchmarks/rows.py [--device cuda] [--threads 1 2] [--quick]

Each figure is a share of a plain read, which is timed in turn with it: torch's sum of a float32 tensor far larger than
the caches, with the same threads (on a GPU, the same sum there). What counts as moved is what must be: the stored rows,
and the gradient once (`project`) or the output read and written (`expand_into`). Medians of interleaved repeats.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from measuring import device_name, parser_of, save, slug, table_lines, wait
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ladle_engine.report import versions
from ladle_engine.rows import BLOCK, TIERS, ResidentRows, Rows, row_bytes

COUNTS = (10, 100, 300)
FILL_ELEMENTS = 1 << 22


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
        for tier in TIERS:
            for count in COUNTS:
                runs.append({"threads": threads, **measure(tier, count, size, repeats, plain)})
        console.print(table_of(runs, threads))
    name = device_name(device)
    result = {"device": name, "quick": arguments.quick, "repeats": repeats, "versions": versions(), "runs": runs}
    console.print(save(f"rows-{slug(name)}", result, markdown(result), quick=arguments.quick))


def measure(tier: str, count: int, size: int, repeats: int, plain: Tensor) -> dict[str, Any]:
    """Rows that take about `size` bytes."""
    length = size // count // row_bytes(tier, BLOCK) * BLOCK
    rows = filled(tier, count, length, plain.device)
    gradient_P = torch.randn(length, device=plain.device)
    weights_N = torch.randn(count, device=plain.device)
    out_P = torch.zeros(length, device=plain.device)
    stored = count * row_bytes(tier, length)
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "plain": (plain.sum, plain.numel() * 4),
        "project": (lambda: rows.project(gradient_P), stored + 4 * length),
        "expand": (lambda: rows.expand_into(out_P, weights_N), stored + 8 * length),
    }
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(-1, repeats):
        for name, (run, moved) in jobs.items():
            rate = moved / seconds(run, plain.device) / 1e9
            if repeat >= 0:  # the first round warms up
                rates[name].append(rate)
    rows.close()
    # Each repeat against the plain read beside it: what else the machine does then disturbs both.
    share = {
        name: statistics.median(rate / read for rate, read in zip(rates[name], rates["plain"], strict=True))
        for name in ("project", "expand")
    }
    return {
        "tier": tier,
        "count": count,
        "length": length,
        "stored_bytes": stored,
        "plain_gb_per_s": round(statistics.median(rates["plain"]), 2),
        "project_gb_per_s": round(statistics.median(rates["project"]), 2),
        "expand_gb_per_s": round(statistics.median(rates["expand"]), 2),
        "project_share": round(share["project"], 3),
        "expand_share": round(share["expand"], 3),
    }


def filled(tier: str, count: int, length: int, device: torch.device) -> Rows:
    """The same few million random elements over and over: quantising them all would take longer than measuring."""
    rows = ResidentRows.allocate(tier, count, length, device)
    step = FILL_ELEMENTS // count // BLOCK * BLOCK
    rows.fill(0, torch.randn(count, min(step, length)))
    for kept in (rows.codes_NQ, rows.scales_NB):
        if kept is not None:
            width = kept.shape[1] * step // length
            for start in range(width, kept.shape[1], width):
                kept[:, start : start + width] = kept[:, : min(width, kept.shape[1] - start)]
    return rows


def seconds(run: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


HEADER = ("tier", "N", "P", "plain read, GB/s", "project", "expand")


def table_of(runs: Iterable[Mapping[str, Any]], threads: int) -> Table:
    table = Table(*HEADER, title=f"{threads} thread(s)")
    for run in runs:
        if run["threads"] == threads:
            table.add_row(*cells_of(run))
    return table


def cells_of(run: Mapping[str, Any]) -> list[str]:
    shares = [f"{100 * run[name]:.0f} %" for name in ("project_share", "expand_share")]
    return [run["tier"], str(run["count"]), f"{run['length']:,}", f"{run['plain_gb_per_s']:.1f}", *shares]


def markdown(result: Mapping[str, Any]) -> str:
    lines = [
        f"# Rows on {result['device']}",
        "",
        f"Made by `python benchmarks/rows.py{' --quick' if result['quick'] else ''}`. Bytes moved per second as a "
        f"share of a plain read (torch's sum of a large float32 tensor, same threads), median of {result['repeats']} "
        f"interleaved repeats. Moved: the stored rows, and the gradient once (project) or the output read and "
        f"written (expand).",
        "",
        *table_lines(("threads", *HEADER), ([str(run["threads"]), *cells_of(run)] for run in result["runs"])),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
