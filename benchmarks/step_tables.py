"""The tables of `step_overhead.py`, what they say to the goal, and how the rows of several calls come together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from measuring import clock_text, held, span, table_lines
from rich.console import Console
from rich.table import Table

from ladle_engine.directions.checkpoint_directions import OFFLOADED, STREAMED
from ladle_engine.directions.formats import ROW_PRECISIONS

PRECISIONS = (*ROW_PRECISIONS, OFFLOADED, STREAMED)
"""In the tables' order."""
GOAL_MODEL, GOAL_COUNT, GOAL_OVERHEAD = "resnet-50", 300, 0.015
MIXED_PRECISION = (
    " Under autocast, which the engine does not have, the plain step would be faster, "
    "and the same overhead a larger share of it."
)
COMPARABLE = ("model", "device", "threads", "batch_size", "image_size", "precision", "versions")


def earlier_runs(path: Path, result: Mapping[str, Any], console: Console) -> list[dict[str, Any]]:
    """The rows that are there already: all of them, or none where they were measured in another way."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    differing = [name for name in COMPARABLE if earlier.get(name) != result[name]]
    if differing:
        console.print(f"{path.name} is begun anew, for it was measured with other {', '.join(differing)}.")
        return []
    runs: list[dict[str, Any]] = earlier["runs"]
    return runs


def with_run(runs: Iterable[dict[str, Any]], run: dict[str, Any]) -> list[dict[str, Any]]:
    """In order, `run` in the place of an earlier one."""

    def place(each: Mapping[str, Any]) -> tuple[int, int]:
        return each["count"], PRECISIONS.index(each["tier"])

    return sorted([*(each for each in runs if place(each) != place(run)), run], key=place)


HEADER = ("K", "directions", "plain, ms", "TWA, ms", "overhead", "by layer", "place", "project", "rest", "memory, MB")


def cells_of(run: Mapping[str, Any]) -> list[str]:
    if "skipped" in run:
        return [str(run["count"]), run["tier"], f"not run: {run['skipped']}", *[""] * 7]
    parts = [f"{run[name]:.1f}" for name in ("place_ms", "project_ms", "rest_ms")]
    return [
        str(run["count"]),
        run["tier"],
        f"{run['plain_ms']:.1f}",
        f"{run['twa_ms']:.1f}",
        f"{100 * run['overhead']:.1f} %",
        f"{100 * run['overhead_layers']:.1f} %",
        *parts,
        megabytes(run),
    ]


def megabytes(sizes: Mapping[str, int]) -> str:
    """`300 + 80`: what is held between steps, directions apart, and what a step takes on top."""
    return f"{sizes['held_bytes'] / 1e6:.0f} + {sizes['step_bytes'] / 1e6:.0f}"


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """The goal, and what each tier's figures say to it."""
    goal = (
        f"The goal is set for {GOAL_MODEL} on one H200, K = {GOAL_COUNT}: at most {100 * GOAL_OVERHEAD:.1f} % of time, "
        f"and less memory than plain SGD with momentum, directions apart."
    )
    judged = result["threads"] is None and result["model"] == GOAL_MODEL
    if not judged:
        why = f"this is {result['model']}" if result["threads"] is None else "no GPU"
        goal += f" Not judged here ({why}): what follows is only beside it."
    lines = [goal]
    for run in result["runs"]:
        if run["count"] != GOAL_COUNT:
            continue
        if "skipped" in run:
            lines.append(f"- {run['tier']}: not run ({run['skipped']}).")
            continue
        ours, plain = run["held_bytes"] + run["step_bytes"], run["plain_bytes"]
        time = f"{100 * run['overhead']:.1f} % more time"
        memory = f"{ours / 1e6:.0f} MB where plain SGD takes {plain / 1e6:.0f} MB"
        if judged:
            time += f", the goal {held(run['overhead'] <= GOAL_OVERHEAD)}"
            memory += f", the goal {held(ours < plain)}"
        lines.append(f"- {run['tier']}: {time}; {memory}.")
    return lines if len(lines) > 1 else [*lines, f"- K = {GOAL_COUNT} was not measured."]


def table_of(result: Mapping[str, Any]) -> Table:
    table = Table(*HEADER, title=f"{result['model']} on {result['device']}")
    for run in result["runs"]:
        table.add_row(*cells_of(run))
    table.caption = f"plain SGD holds and takes {megabytes(result['plain'])} MB"
    return table


def markdown(result: Mapping[str, Any]) -> str:
    plain = result["plain"]
    noise = [abs(run["plain_again"]) for run in result["runs"] if "plain_again" in run] or [0.0]
    command = f"python benchmarks/step_overhead.py --models {result['model']}{' --quick' if result['quick'] else ''}"
    lines = [
        f"# Step overhead: {result['model']} on {result['device']}",
        "",
        f"Made by `{command}`. {plain['parameters']:,} parameters, batches of {result['batch_size']} at "
        f"{result['image_size']} pixels, float32; {clock_text(result['threads'])}, medians of "
        f"{span(run['repeats'] for run in result['runs'])} interleaved repeats, overheads of the ratios of neighbours. "
        f"`by layer` has a coefficient per checkpoint and layer. `rest` is the step less a bare pass, place and "
        f"project: a difference of medians, so it carries their noise. The plain step against itself differs by "
        f"{100 * statistics.median(noise):.1f} % in the median and {100 * max(noise):.1f} % at most; load average "
        f"{span(run['load'] for run in result['runs'])}.{'' if result['threads'] else MIXED_PRECISION}",
        "",
        f"Memory is what is held between steps, directions apart (parameters and centre; for plain SGD parameters and "
        f"momentum), plus what a step takes at its peak. Plain SGD: {megabytes(plain)} MB. A plain step is "
        f"{plain['flop'] / plain['parameters'] / 1e3:,.0f} thousand FLOP a parameter; its calls: "
        f"{_counts(plain['calls'])}, ours: {_range_of(run['calls'] for run in result['runs'] if 'calls' in run)}.",
        "",
        *verdicts(result),
        "",
        *table_lines(HEADER, map(cells_of, result["runs"])),
    ]
    return "\n".join(lines) + "\n"


def _counts(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in calls.items())


def _range_of(all_calls: Iterable[Mapping[str, int]]) -> str:
    by_name: dict[str, list[int]] = {}
    for each in all_calls:
        for name, count in each.items():
            by_name.setdefault(name, []).append(count)
    return ", ".join(f"{span(counts)} {name}" for name, counts in by_name.items())
