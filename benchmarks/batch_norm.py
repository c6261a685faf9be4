"""What averaged and recomputed statistics of BatchNorm are worth in whole jobs, and what the engine chooses.

    python benchmarks/batch_norm.py

Every job runs twice, with either way for all mixtures. *Old* is what Ladle did by the number of images to fit
(recomputed from 512), *new* is the way that has the lower loss on the fit split. Checkpoint sets are made the first
time (the fine-tunes on photographs of solar cells take an hour), and every job's figures are kept beside them in
CACHE/batch-norm: delete that folder to measure again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_sets import PreparedSet, prepare
from measuring import parser_of, save, table_lines
from sources import CACHE

from ladle_engine import average, candidate_state
from ladle_engine.evaluation.statistics_choice import StatisticsChoice, StatisticsChooser
from ladle_engine.model.statistics import AveragedStatistics, RecomputedStatistics

WAYS = ("averaged", "recomputed")
METHODS = ("best", "uniform", "greedy-soup", "twa", "twa-layerwise")
OLD_LEAST = 512
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Jobs of one kind: their figures are averaged over the seeds."""

    name: str
    seeds: int
    num_val: int
    """Half of them fit."""


JOBS = (
    Jobs(name="solar-cells", seeds=1, num_val=600),
    Jobs(name="digits-bn", seeds=8, num_val=64),
    Jobs(name="digits-bn", seeds=8, num_val=128),
    Jobs(name="digits-bn", seeds=8, num_val=520),
    Jobs(name="fashion-bn", seeds=1, num_val=400),
)


@contextmanager
def taking(way: str) -> Iterator[None]:
    """Inside, jobs measure both ways, and take this one whatever they find."""
    choose = StatisticsChooser.choose

    def forced(chooser: StatisticsChooser) -> StatisticsChoice:
        choice = choose(chooser)
        averaged = AveragedStatistics(chooser.checkpoints, chooser.binding)
        recomputed = RecomputedStatistics(chooser.checkpoints, chooser.binding, chooser.examples, chooser.collectives)
        return replace(choice, policy=averaged if way == "averaged" else recomputed)

    StatisticsChooser.choose = forced  # type: ignore[method-assign,assignment]  # for as long as the block lasts
    try:
        yield
    finally:
        StatisticsChooser.choose = choose  # type: ignore[method-assign]  # as it was


def known_or_run(jobs: Jobs, seed: int) -> dict[str, Any]:
    kept = CACHE / "batch-norm" / f"{jobs.name}-{seed}-{jobs.num_val}.json"
    if not kept.exists():
        found = run(prepare(jobs.name, seed), jobs.num_val)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    known: dict[str, Any] = json.loads(kept.read_text())
    return known


def run(prepared: PreparedSet, num_val: int) -> dict[str, Any]:
    """Way -> method -> test loss and accuracy; which way is old and which new; which method either returns."""
    with tempfile.TemporaryDirectory() as made:
        val = subset(prepared, num_val, Path(made) / "val.npz")
        found: dict[str, Any] = {"test": {}, "returned": {}}
        for way in WAYS:
            output = Path(made) / way
            with taking(way):
                outcome = average(
                    prepared.checkpoints,
                    val,
                    output=output,
                    task=prepared.task.from_options({"batch_size": min(BATCH_SIZE, num_val // 2)}),
                    method_options={"methods": list(METHODS)},
                )
            found["test"][way] = {
                method: prepared.test(candidate_state(output, prepared.checkpoints, method)) for method in METHODS
            }
            found["returned"][way] = outcome.method
            found |= json.loads((output / "report.json").read_text())["statistics"]
    del found["mixtures"]
    found["old"] = WAYS[num_val // 2 >= OLD_LEAST]
    found["new"] = min(WAYS, key=found["fit_loss"].__getitem__)
    return found


def subset(prepared: PreparedSet, count: int, path: Path) -> Path:
    """The first so many validation images in a seeded shuffle."""
    with np.load(prepared.val) as arrays:
        chosen = np.random.default_rng(prepared.seed).permutation(len(arrays["labels"]))[:count]
        np.savez(path, images=arrays["images"][chosen], labels=arrays["labels"][chosen])
    return path


def section(jobs: Jobs, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One table: methods by old and new."""

    def mean(policy: str, method: str, metric: str) -> float:
        return float(sum(found["test"][found[policy]][method][metric] for found in runs) / len(runs))

    head = ["method", *(f"{policy} {metric}" for metric in ("loss", "accuracy") for policy in ("old", "new"))]
    rows = [
        [
            method,
            *(f"{mean(policy, method, metric):.4f}" for metric in ("loss", "accuracy") for policy in ("old", "new")),
        ]
        for method in METHODS
    ]
    for policy in ("old", "new"):
        returned = [found["returned"][found[policy]] for found in runs]
        losses = [found["test"][found[policy]][method] for found, method in zip(runs, returned, strict=True)]
        rows.append(
            [
                f"what {policy} returns ({', '.join(sorted(set(returned)))})",
                *(
                    f"{sum(each[metric] for each in losses) / len(losses):.4f}" if policy == column else ""
                    for metric in ("loss", "accuracy")
                    for column in ("old", "new")
                ),
            ]
        )
    ways = [found["new"] for found in runs]
    told = ", ".join(f"{way} in {ways.count(way)}" for way in WAYS if way in ways)
    return [
        "",
        f"## {jobs.name}, {jobs.num_val // 2} images to fit",
        "",
        f"{runs[0]['values_per_channel']} values per channel, where they are fewest. Seeds: {len(runs)}. "
        f"Old: {runs[0]['old']}. New: {told}.",
        "",
        *table_lines(head, rows),
    ]


def main() -> None:
    parser = parser_of(__doc__, quick="one seed of the digits", cpu_only=True)
    parser.add_argument("--sets", nargs="+", help="only these", default=sorted({jobs.name for jobs in JOBS}))
    parser.add_argument("--seeds", type=int, help="at most", default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# BatchNorm's statistics in whole jobs",
        "",
        "`python benchmarks/batch_norm.py`: test loss and accuracy of what each method makes, with the old rule",
        f"(averaged below {OLD_LEAST} images) and the new one (the way with the lower loss on the fit split).",
    ]
    result: list[dict[str, Any]] = []
    for jobs in JOBS:
        if jobs.name not in arguments.sets or (arguments.quick and jobs.name != "digits-bn"):
            continue
        seeds = range(1 if arguments.quick else min(jobs.seeds, arguments.seeds))
        runs = [known_or_run(jobs, seed) for seed in seeds]
        result.append({"set": jobs.name, "num_val": jobs.num_val, "runs": runs})
        lines += section(jobs, runs)
        print("\n".join(section(jobs, runs)), flush=True)
    print(save("batch-norm", {"jobs": result}, "\n".join(lines) + "\n", quick=arguments.quick))


if __name__ == "__main__":
    main()
