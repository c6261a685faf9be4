"""Cross-fitting: do the two halves of the validation data buy more when they swap roles?

    python benchmarks/cross_fitting.py --sets icons-adam icons-sweep --seeds 0
    python benchmarks/cross_fitting.py --table            (only the table, of what was measured before)

*Today* one half fits and the other one scales and judges. *Swapped* is the same with the halves changed over. *Crossed*
has the mean of both runs' coefficients. A candidate is then judged out of fold, on all examples: on each half by the
coefficients that the other one trained; what is compared with, the best checkpoint, is that of all examples.

Sets are those of `small_sets`, with all of their validation data and with a few of them. Each set's figures are kept as
they come.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from checkpoint_sets import PreparedSet, prepare
from measuring import results_path, save, table_lines
from regret import CHOOSING, FEW, first_of
from small_sets import SMALL

from ladle_engine.coefficients import Coefficients
from ladle_engine.determinism import deterministic
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.evaluate import Evaluation, evaluate
from ladle_engine.evaluation.gain import gain_over
from ladle_engine.methods import run_once
from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline.function_request import make_request
from ladle_engine.pipeline.job import Job
from ladle_engine.pipeline.open_job import opened
from ladle_engine.pipeline.prepare import prepare as prepare_job
from ladle_engine.pipeline.prepare import with_directions
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.examples import Examples
from ladle_engine.versions import versions

NAME = "cross-fitting"
TRAINED = ("twa", "twa-layerwise")
METHODS = ("best", "uniform", *TRAINED)
WAYS = ("today", "swapped", "crossed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=SMALL, nargs="+", default=[], metavar="SET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = results_path(NAME)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    wanted = [(name, seed, count) for seed in arguments.seeds for name in arguments.sets for count in (None, FEW)]
    for name, seed, count in wanted if not arguments.table else []:
        rows = [row for row in rows if (row["set"], row["seed"], row["count"]) != (name, seed, count)]
        rows.append({"set": name, "seed": seed, "count": count, **measured(prepare(name, seed), seed, count)})
        print(
            save(NAME, {"versions": versions(), "rows": rows}, markdown(rows)), name, seed, count or "all", flush=True
        )
    if arguments.table:
        print(save(NAME, {"versions": versions(), "rows": rows}, markdown(rows)))


@dataclass(frozen=True, kw_only=True)
class Half:
    """What one half of the examples chose, and what it is worth on the other one."""

    chosen: Mapping[str, Coefficients]
    judged: Mapping[str, Evaluation]
    bar: Evaluation
    """The best checkpoint of all examples."""
    test: Mapping[str, tuple[float, float]]
    seconds: float
    """Of the processor, without the test set and the bar."""


def measured(prepared: PreparedSet, seed: int, count: int | None) -> dict[str, Any]:
    """Of one set: the metric (oriented) and the loss on the test set by way and method, what each way returns, what it
    says of it, and what it takes."""
    with tempfile.TemporaryDirectory() as temporary:
        request = make_request(
            {
                "ckpt_dir": prepared.checkpoints,
                "val_set": prepared.val if count is None else first_of(prepared.val, count, Path(temporary)),
                "output": Path(temporary) / "out",
                "task": prepared.task,
                "method_options": {"methods": list(METHODS)},
                "seed": seed,
            }
        )
        test = prepared.examples(prepared.test_data)
        with opened(request) as job, deterministic(job.device):
            one, other = job.splits.fit, job.splits.select
            both = replace(one, indices=torch.cat([one.indices, other.indices]).sort().values)
            with closing(context_of(job, both, both)) as context:
                started = time.process_time()
                best = run_once(context, "best").coefficients
                seconds = time.process_time() - started
            halves = [half_of(job, fit, select, best, test) for fit, select in ((one, other), (other, one))]
            # Statistics of a mean of both runs are recomputed on all that there is.
            with closing(context_of(job, both, both)) as context:
                tests = {
                    "best": scores(context, best, test),
                    **{name: scores(context, mean_of(halves, name), test) for name in METHODS[1:]},
                }
            today, swapped = halves
            told = {
                "today": on_one_half(today, job.metric, seed),
                "swapped": on_one_half(swapped, job.metric, seed),
                "crossed": out_of_fold(halves, job.metric, seed),
            }
            return {
                "num": len(both),
                "by_loss": job.metric.name == "loss",
                "test": dict(zip(WAYS, (today.test, swapped.test, tests), strict=True)),
                **{key: {way: each[key] for way, each in told.items()} for key in ("winner", "gain", "half_width")},
                "seconds": {
                    "today": today.seconds,
                    "crossed": seconds + sum(half.seconds for half in halves),
                },
            }


def context_of(job: Job, fit: Examples, select: Examples) -> MethodContext:
    splits = replace(job.splits, fit=fit, select=select, coefficients=fit, statistics=fit)
    return prepare_job(replace(job, splits=splits), with_directions)


def half_of(job: Job, fit: Examples, select: Examples, best: Coefficients, test: Examples) -> Half:
    started = time.process_time()
    with closing(context_of(job, fit, select)) as context:
        chosen = {name: run_once(context, name).coefficients for name in METHODS}
        judged = {name: context.judge(each).select for name, each in chosen.items()}
        seconds = time.process_time() - started
        return Half(
            chosen=chosen,
            judged=judged,
            bar=context.judge(best).select,
            test={name: scores(context, each, test) for name, each in chosen.items()},
            seconds=seconds,
        )


def mean_of(halves: Sequence[Half], method: str) -> Coefficients:
    one, other = (half.chosen[method] for half in halves)
    return replace(one, alpha_KG=(one.alpha_KG + other.alpha_KG) / 2)


def scores(context: MethodContext, coefficients: Coefficients, test: Examples) -> tuple[float, float]:
    """The metric, oriented, and the loss on the test set."""
    context.load_weights(coefficients)
    found = evaluate(context.binding.model, test, SingleProcess()).scores()
    sign = 1.0 if context.metric.higher_is_better else -1.0
    return sign * found[context.metric.name], found["loss"]


def on_one_half(half: Half, metric: Metric, seed: int) -> dict[str, Any]:
    return told_of({name: half.judged[name] for name in METHODS}, metric, seed)


def out_of_fold(halves: Sequence[Half], metric: Metric, seed: int) -> dict[str, Any]:
    one, other = halves
    judged = {name: one.judged[name].and_then(other.judged[name]) for name in METHODS[1:]}
    return told_of({"best": one.bar.and_then(other.bar), **judged}, metric, seed)


def told_of(judged: Mapping[str, Evaluation], metric: Metric, seed: int) -> dict[str, Any]:
    """What is returned, and each one's gain over the best checkpoint with half the width of its 95 % interval, of one
    comparison."""
    gains = {name: gain_over(each, judged["best"], metric, seed) for name, each in judged.items()}
    return {
        "winner": max(METHODS, key=lambda name: judged[name].rank_key(metric)),
        "gain": {name: gain.value for name, gain in gains.items()},
        "half_width": {name: gain.high - gain.value for name, gain in gains.items()},
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Cross-fitting",
        "",
        "`python benchmarks/cross_fitting.py`. Test losses; *returned* is the one that each way returns. *Today*: one "
        "half of the validation data fits, the other one judges. *Swapped*: the same with the halves changed over. "
        "*Crossed*: the mean of both runs' coefficients, judged out of fold.",
        "",
        *table_lines(COLUMNS, map(cells, rows)),
        "",
    ]
    groups = {
        "All sets": rows,
        "With all validation data": [row for row in rows if row["count"] is None],
        f"With {FEW} validation examples": [row for row in rows if row["count"] is not None],
        f"Sets of other data than {', '.join(CHOOSING)}": [row for row in rows if not row["set"].startswith(CHOOSING)],
    }
    for title, some in groups.items():
        if len({row["set"] for row in some}) > 1:
            lines += [f"## {title}", "", *summary(some), ""]
    return "\n".join(lines)


COLUMNS = (
    *("set, seed", "examples", "best checkpoint"),
    *(f"`{method}`: {way}" for method in TRAINED for way in WAYS),
    *("returned: today", "crossed"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    tests, winners = row["test"], row["winner"]
    return [
        f"{row['set']} {row['seed']}",
        f"{row['num']:,}",
        f"{tests['today']['best'][1]:.4f}",
        *(f"{tests[way][method][1]:.4f}" for method in TRAINED for way in WAYS),
        *(f"{tests[way][winners[way]][1]:.4f} ({winners[way]})" for way in ("today", "crossed")),
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Geometric means of losses and means of metrics, with standard errors over sets."""
    lines = []
    for method in TRAINED:
        for way in ("swapped", "crossed"):
            logs = [math.log(row["test"][way][method][1] / row["test"]["today"][method][1]) for row in rows]
            lines.append(f"- `{method}`, {way}: its test loss is {in_percent(rows, logs)} against today's.")
    logs = [math.log(_returned(row, "crossed")[1] / _returned(row, "today")[1]) for row in rows]
    lines.append(f"- What is returned, crossed: its test loss is {in_percent(rows, logs)} against today's.")
    judged = [row for row in rows if not row["by_loss"]]
    points = [_returned(row, "crossed")[0] - _returned(row, "today")[0] for row in judged]
    lines.append(
        f"- What is returned, crossed: its accuracy is {in_percent(judged, points, 'points')} against today's."
    )
    for way in ("today", "crossed"):
        of = [row for row in judged if row["winner"][way] != "best"]
        if not of:
            continue
        beyond = [_returned(row, way)[0] - row["test"][way]["best"][0] - _stated(row, way, "gain") for row in of]
        width = statistics.mean(2 * _stated(row, way, "half_width") for row in of)
        lines.append(
            f"- What is stated, {way}: the accuracy gained on the test set is {in_percent(of, beyond, 'points')} "
            f"against the stated one, on {len(of)} choices of an average; the interval of one comparison is "
            f"{100 * width:.2f} points wide."
        )
    cost = [row["seconds"]["crossed"] / row["seconds"]["today"] for row in rows]
    return [*lines, f"- Crossing takes {statistics.geometric_mean(cost):.2f} times the processor's time of today's."]


def _returned(row: Mapping[str, Any], way: str) -> tuple[float, float]:
    metric, loss = row["test"][way][row["winner"][way]]
    return metric, loss


def _stated(row: Mapping[str, Any], way: str, what: str) -> float:
    return float(row[what][way][row["winner"][way]])


def in_percent(rows: Sequence[Mapping[str, Any]], values: Iterable[float], unit: str = "%") -> str:
    """A set's cases are averaged first: they share checkpoints and test data."""
    by_set: dict[tuple[str, int], list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        by_set.setdefault((row["set"], row["seed"]), []).append(value)
    means = [statistics.mean(each) for each in by_set.values()]
    error = f" ± {100 * statistics.stdev(means) / math.sqrt(len(means)):.2f}" if len(means) > 1 else ""
    return f"{100 * statistics.mean(means):+.2f}{error} {unit}"


if __name__ == "__main__":
    main()
