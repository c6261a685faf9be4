"""`search` beside `twa`, and beside averages that nothing trains, by metrics with a gradient and without one.

    python benchmarks/search.py
    python benchmarks/search.py --sets digits --seeds 41 42 --metrics loss macro-f1

Figures are kept as they come, and what is known already is not measured again: one run adds to another's.

Each job judges by one metric; the others of a row of candidates are its default methods. Scores are those on the test
set, which nothing here has seen. What it costs is counted in walks through the fit split: a search's are its
evaluations; a gradient step counts as three evaluations of its batch.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoint_sets import PreparedSet, prepare
from measuring import results_path, save, table_lines
from rich.console import Console
from torch import Tensor, nn

from ladle_engine import average, candidate_state
from ladle_engine.progress import ProgressEvent, StageStarted
from ladle_engine.tasks import Task
from ladle_engine.tasks.base import Batch
from ladle_engine.versions import versions

OTHERS = ("best", "uniform", "ema", "greedy-soup", "twa", "twa-layerwise")
SEARCHES: dict[str, dict[str, Any]] = {
    "search over profile": {"over": "profile", "budget": 30.0},
    "search over axes": {"over": "axes"},
    "search over groups": {"over": "groups"},
}
GRADIENT = 3
"""Evaluations that a gradient of the same examples takes: forward once, backward twice."""


class Counts:
    """How many examples each method's choice took, with a gradient counted as so many evaluations."""

    def __init__(self, task: Task) -> None:
        self.of: Counter[str] = Counter()
        self._method: str | None = None
        evaluate, loss = task.evaluate, task.loss

        def counted(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            self._add(batch, 1)
            return evaluate(model, batch)

        def counted_loss(model: nn.Module, batch: Batch) -> Tensor:
            self._add(batch, GRADIENT)
            return loss(model, batch)

        self.task = copy.copy(task)
        vars(self.task).update(evaluate=counted, loss=counted_loss)

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            self._method = event.method if event.stage in ("train", "evaluate") else None

    def _add(self, batch: Batch, times: int) -> None:
        if self._method is not None:
            self.of[self._method] += times * len(next(iter(batch.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["digits"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--metrics", nargs="+", default=["loss", "macro-f1"])
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, rows, path = Console(), list[dict[str, Any]](), results_path("search")
    if path.exists() and not arguments.fresh:
        rows = json.loads(path.read_text())["rows"]
    for name in arguments.sets:
        for seed in arguments.seeds:
            for metric in arguments.metrics:
                if (name, seed, metric) in {(row["set"], row["seed"], row["metric"]) for row in rows}:
                    continue
                rows += measured(prepare(name, seed), metric)
                _kept(rows, console)
    _kept(rows, console)


def _kept(rows: Sequence[dict[str, Any]], console: Console) -> None:
    console.print(save("search", {"versions": versions(), "rows": rows}, markdown(rows)))


def measured(prepared: PreparedSet, metric: str) -> list[dict[str, Any]]:
    """One row per candidate."""
    rows = _job(prepared, metric, OTHERS, {}, {})
    for label, options in SEARCHES.items():
        rows += _job(prepared, metric, ("search",), {"search": options}, {"search": label})
    return rows


def _job(
    prepared: PreparedSet, metric: str, methods: Sequence[str], options: dict[str, Any], labels: dict[str, str]
) -> list[dict[str, Any]]:
    counts = Counts(prepared.task)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        outcome = average(
            prepared.checkpoints, prepared.val, output=output, task=counts.task, metric=metric,
            method_options={"methods": list(methods), "options": options}, progress=counts,
        )  # fmt: skip
        total = len(prepared.examples(prepared.val))
        fit = total - round(total / 2)
        rows = []
        for score in outcome.candidates:
            if score.method not in methods:
                continue
            test = prepared.test(candidate_state(output, prepared.checkpoints, score.method))
            rows.append(
                {
                    "set": prepared.name,
                    "seed": prepared.seed,
                    "metric": metric,
                    "method": labels.get(score.method, score.method),
                    "label": score.label,
                    "fit": score.fit.get(metric),
                    "select": score.select[metric],
                    "test": test[metric],
                    "test_loss": test["loss"],
                    "walks": counts.of[score.method] / fit,
                }
            )
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    metrics, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("metric", "set"))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["# `search` beside `twa`", "", "By `benchmarks/search.py`; its docstring says what is counted.", ""]
    for name in sets:
        for metric in metrics:
            own = [row for row in rows if (row["set"], row["metric"]) == (name, metric)]
            if not own:
                continue
            seeds = sorted({row["seed"] for row in own})
            lines += [
                f"## {name}, judged by {metric}",
                "",
                f"Means over the seeds {', '.join(map(str, seeds))}." if len(seeds) > 1 else f"Seed {seeds[0]}.",
                "",
            ]
            lines += table_lines(
                ["method", f"test {metric}", "difference to `twa` (2 standard errors)", "test loss", "walks"],
                [_line(method, own, metric) for method in methods],
            )
            lines.append("")
    return "\n".join(lines)


def _line(method: str, own: Sequence[dict[str, Any]], metric: str) -> list[str]:
    of_seed = {row["seed"]: row for row in own if row["method"] == method}
    twa = {row["seed"]: row["test"] for row in own if row["method"] == "twa"}
    differences = [row["test"] - twa[seed] for seed, row in of_seed.items()]
    doubt = f" ({2 * statistics.stdev(differences) / math.sqrt(len(differences)):.4f})" if len(differences) > 1 else ""
    mean = {key: statistics.mean(row[key] for row in of_seed.values()) for key in ("test", "test_loss", "walks")}
    against = "" if method == "twa" else f"{statistics.mean(differences):+.4f}{doubt}"
    return [f"`{method}`", f"{mean['test']:.4f}", against, f"{mean['test_loss']:.4f}", f"{mean['walks']:.1f}"]


if __name__ == "__main__":
    main()
