"""What to return when the metric cannot tell: the regret of several rules on small real checkpoint sets.

    python benchmarks/regret.py --sets icons-adam icons-sweep --seeds 0 1
    python benchmarks/regret.py --table            (only the table, of what was judged before)

On every set of `small_sets`, with all of its validation data and with 200 examples of it, `auto` runs all candidates;
each is then evaluated on the untouched test set. A rule sees the select split only. Its regret is how much better the
best candidate is on the test set: in the metric, and in the loss. Cases are added to those in the results' file. Values
per example are kept in the cache, so that a new rule costs nothing where they are.

A first study judged `FIRST`: those of digits, MNIST and titles were to choose a rule, those of other data to prove it.
It singled out `regret_rules.CONTENDER`, and proved nothing. So all others are fresh, and this was written down before
any of them was judged: the contender is adopted if, on the proving sets together with the fresh ones, its regret in the
test loss is less than that of the metric alone by more than two standard errors, and its regret in the test metric is
not more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_sets import PreparedSet, prepare
from measuring import results_path, save, table_lines
from regret_rules import Case, Cost, Decided, Row, costs, decided, halved, verdict
from safetensors.torch import load_file, save_file
from small_sets import SMALL
from sources import CACHE

from ladle_engine.determinism import deterministic
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.pipeline.candidates import run_methods
from ladle_engine.pipeline.function_request import make_request
from ladle_engine.pipeline.open_job import opened
from ladle_engine.pipeline.prepare import prepare as prepare_job
from ladle_engine.pipeline.prepare import with_directions
from ladle_engine.versions import versions

NAME = "regret"
CHOOSING = ("digits", "mnist", "titles")
"""Of the first study, sets of these data were to choose the rule; all others to prove it."""
FIRST = (
    *("digits-sgd", "digits-decayed", "digits-bn-sweep", "mnist-adam", "mnist-bn-decayed", "titles-adam"),
    *("titles-sweep", "fashion-adam", "fashion-decayed", "fashion-bn-adam", "fashion-sweep", "icons-adam"),
    *("icons-bn-decayed", "icons-sweep", "cells-adam", "docs-adam"),
)
"""Judged with seed 0."""
PLANNED = {
    0: (
        *("digits-sweep", "mnist-from-fashion", "fashion-sgd-high", "fashion-bn-decayed", "cells-bn-adam"),
        *("titles-decayed", "cells-pretrained", "titles-many"),
    ),
    1: (
        *("icons-adam", "icons-sweep", "cells-adam", "fashion-sweep", "digits-sgd", "icons-bn-decayed", "mnist-adam"),
        *("fashion-adam", "titles-sweep", "digits-decayed", "fashion-decayed", "digits-bn-sweep"),
    ),
}
"""Seed -> the fresh sets, as they were listed before the first one was judged. Until all of them are, nothing is
decided: whoever stops where a figure is good has chosen it."""
PROVING_AND_FRESH = "Sets that prove it, and fresh ones"
FEW = 200
"""Validation examples in the small case; half of them select."""

DRAWS = 30
"""Halves of a select split."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=SMALL, nargs="+", default=list(SMALL), metavar="SET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--table", action="store_true", help="judge nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = results_path(NAME)
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"] if path.exists() else []
    for name, seed in [(name, seed) for seed in arguments.seeds for name in arguments.sets if not arguments.table]:
        cases = [case for case in cases if (case["set"], case["seed"]) != (name, seed)]
        for count in (None, FEW):
            started = time.monotonic()
            cases.append(to_json(case_of(name, seed, count)))
            print(name, seed, count or "all", f"{time.monotonic() - started:.0f} s", flush=True)
        told(cases)
    print(told(cases))


def told(cases: Sequence[Mapping[str, Any]]) -> str:
    """Saves cases and tables; returns the tables."""
    groups = {**groups_of([from_json(case) for case in cases]), HALVES: halves_of(cases)}
    # One set has no standard error.
    groups = {title: group for title, group in groups.items() if len({(each.set, each.seed) for each in group}) > 1}
    tables = {title: costs(group) for title, group in groups.items()}
    result = {
        "versions": versions(),
        "choosing": CHOOSING,
        "first": FIRST,
        "cases": cases,
        "costs": {title: [vars(cost) for cost in found] for title, found in tables.items()},
    }
    text = markdown(groups, tables)
    save(NAME, result, text)
    return text


def is_fresh(case: Decided) -> bool:
    return case.seed != 0 or case.set not in FIRST


def groups_of(cases: Sequence[Decided]) -> dict[str, list[Decided]]:
    """By what they are for. Where the metric is the loss itself, rules by loss have nothing to decide."""
    judged = [case for case in cases if not case.by_loss]
    choose = [case for case in judged if not is_fresh(case) and case.set.startswith(CHOOSING)]
    prove = [case for case in judged if not is_fresh(case) and not case.set.startswith(CHOOSING)]
    fresh = [case for case in judged if is_fresh(case)]
    both = [*prove, *fresh]
    return {
        "Sets that choose the rule": choose,
        "Sets that prove it": prove,
        "Fresh sets": fresh,
        PROVING_AND_FRESH: both,
        "Of these, with all validation data": [case for case in both if case.num_select > FEW // 2],
        f"Of these, with {FEW} validation examples": [case for case in both if case.num_select <= FEW // 2],
        "All that are judged by accuracy": judged,
        "Language models, judged by the loss": [case for case in cases if case.by_loss],
    }


HALVES = "Fresh sets with all validation data, the choice repeated on random halves of the select split"


def halves_of(cases: Sequence[Mapping[str, Any]]) -> list[Decided]:
    """Of the fresh sets that are judged by accuracy."""
    return [
        replace(whole, num_select=whole.num_select // 2, chosen=dict(zip(whole.chosen, names.split(), strict=True)))
        for case in cases
        if is_fresh(whole := from_json(case)) and not whole.by_loss
        for names, times in case.get("halves", {}).items()
        for _ in range(times)
    ]


def case_of(name: str, seed: int, count: int | None) -> Case:
    """From the cache, or after running the job."""
    folder = CACHE / "regret" / f"{name}-{seed}-{count or 'all'}"
    if not folder.with_suffix(".safetensors").exists():
        tensors = judge(prepare(name, seed), seed, count)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder.with_suffix(".safetensors"))
    tensors = load_file(folder.with_suffix(".safetensors"))
    methods = [key.removesuffix("/test") for key in tensors if key.endswith("/test")]
    rows = [
        Row(
            method=method.partition(":")[2],
            metric_values=tensors[f"{method}/metric"],
            loss_values=tensors[f"{method}/loss"],
            spread=float(tensors[f"{method}/test"][2]),
            test_metric=float(tensors[f"{method}/test"][0]),
            test_loss=float(tensors[f"{method}/test"][1]),
        )
        for method in sorted(methods)
    ]
    metric, loss = rows[0].metric_values, rows[0].loss_values
    by_loss = bool((metric == -loss).all())
    return Case(set=name, seed=seed, num_select=len(metric), by_loss=by_loss, rows=tuple(rows))


def judge(prepared: PreparedSet, seed: int, count: int | None) -> dict[str, torch.Tensor]:
    """`auto` on one set: for every candidate its values on the select split, and its scores on the test set."""
    with tempfile.TemporaryDirectory() as temporary:
        val = prepared.val if count is None else first_of(prepared.val, count, Path(temporary))
        request = make_request(
            {
                "ckpt_dir": prepared.checkpoints,
                "val_set": val,
                "output": Path(temporary) / "out",
                "task": prepared.task,
                "seed": seed,
            }
        )
        with opened(request) as job, deterministic(job.device), closing(prepare_job(job, with_directions)) as context:
            sign = 1.0 if job.metric.higher_is_better else -1.0
            tensors: dict[str, torch.Tensor] = {}
            test = prepared.examples(prepared.test_data)
            for number, candidate in enumerate(run_methods(context, lambda: None)):
                coefficients, select = candidate.choice.coefficients, candidate.judged.select
                context.load_weights(coefficients, candidate.judged.statistics)
                scores = evaluate(context.binding.model, test, SingleProcess()).scores()
                spread = 1 / float(coefficients.alpha_KG.square().sum(dim=0).mean())
                key = f"{number}:{candidate.method}"
                tensors[f"{key}/metric"] = sign * select.values[job.metric.name]
                tensors[f"{key}/loss"] = select.values["loss"]
                tensors[f"{key}/test"] = torch.tensor(
                    [sign * scores[job.metric.name], scores["loss"], spread], dtype=torch.float64
                )
            return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def first_of(val: Path, count: int, folder: Path) -> Path:
    """A data file with the first examples alone."""
    path = folder / val.name
    if val.suffix == ".npz":
        with np.load(val) as arrays:
            np.savez(path, **{name: arrays[name][:count] for name in arrays.files})
    else:
        save_file({name: tensor[:count].contiguous() for name, tensor in load_file(val).items()}, path)
    return path


def to_json(case: Case) -> dict[str, Any]:
    """Where a select split is large enough, with what the rules chose on halves of it, and how often."""
    halves = halved(case, DRAWS) if case.num_select > FEW // 2 else []
    return {
        "set": case.set,
        "seed": case.seed,
        "num_select": case.num_select,
        "metric": "loss" if case.by_loss else "accuracy",
        "candidates": {
            row.method: {
                "select_metric": round(row.metric, 5),
                "select_loss": round(row.loss, 5),
                "test_metric": round(row.test_metric, 5),
                "test_loss": round(row.test_loss, 5),
                "spread": round(row.spread, 2),
            }
            for row in case.rows
        },
        "chosen": decided(case).chosen,
        "halves": Counter(" ".join(decided(half).chosen.values()) for half in halves),
    }


def from_json(case: Mapping[str, Any]) -> Decided:
    return Decided(
        set=case["set"],
        seed=case["seed"],
        num_select=case["num_select"],
        by_loss=case["metric"] == "loss",
        chosen=case["chosen"],
        test={name: (each["test_metric"], each["test_loss"]) for name, each in case["candidates"].items()},
    )


COLUMNS = (
    "rule",
    "regret, metric",
    "less than the metric's",
    "regret, loss",
    "less than the metric's",
    "other choices",
)


def lines(found: Sequence[Cost]) -> list[str]:
    """Of the metric in points of 100."""
    return table_lines(
        COLUMNS,
        (
            (cost.rule, *map(_percent, (cost.metric, cost.metric_less, cost.loss, cost.loss_less)), str(cost.changed))
            for cost in found
        ),
    )


def _percent(value: tuple[float, float]) -> str:
    mean, error = value
    return f"{100 * mean:.2f} ± {100 * error:.2f}"


def markdown(groups: Mapping[str, Sequence[Decided]], tables: Mapping[str, Sequence[Cost]]) -> str:
    parts = [
        "# What to return when the metric cannot tell",
        "",
        "`python benchmarks/regret.py`. Regret in the metric is in points of 100 (of the loss where that is the",
        "metric), regret in the loss is relative, in percent; after ± is the standard error over sets. *Among*: of the",
        "candidates that the metric cannot tell from its best on the select split, and that are no worse there than",
        f"the best checkpoint. Each set is judged with all of its validation data and with {FEW} examples. In a first",
        f"study a rule was to be chosen on sets of {', '.join(CHOOSING)} and proved on the others. Sets that were",
        "judged after it are fresh.",
    ]
    for title, found in tables.items():
        group = groups[title]
        sets = sorted({f"{case.set} {case.seed}" for case in group})
        listed = f"{len(sets)} sets, {len(group)} choices: {', '.join(sets)}."
        parts += ["", f"## {title}", "", listed, ""]
        parts += [f"{verdict(found)} {_left(group)}".rstrip(), ""] if title == PROVING_AND_FRESH else []
        parts += lines(found)
    return "\n".join([*parts, ""])


def _left(judged: Sequence[Decided]) -> str:
    """Of the planned sets."""
    known = {(case.set, case.seed) for case in judged}
    left = [f"{name} {seed}" for seed, names in PLANNED.items() for name in names if (name, seed) not in known]
    return f"But these planned sets are not judged yet, so nothing is decided: {', '.join(left)}." if left else ""


if __name__ == "__main__":
    main()
