"""What the checkpoints' ancestor is good for: `model-stock`, `wise-ft`, `extrapolate` and a ramp over depth.

    python benchmarks/base.py --sets fashion-sweep cells-pretrained --seeds 0 1
    python benchmarks/base.py --table            (only the table, of what was measured before)

For each set of fine-tunes: `auto` without the ancestor and with it, and the methods that `auto` does not run. Scores
are those on a test set that no job has seen. Each set's figures are kept as they come.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint_sets import PreparedSet
from measuring import table_lines
from rows_of_sets import add_rows, parser_of_sets

from ladle_engine import average, candidate_state

NAME = "base"
RAMP = 0.5
WITHOUT, WITH = "auto", "auto with base"
JOBS: dict[str, dict[str, Any]] = {
    WITHOUT: {},
    WITH: {"base": True},
    "to best": {"base": True, "methods": ["best", "wise-ft"], "options": {"wise-ft": {"to": "best"}}},
    "away from base": {
        "base": True, "methods": ["best", "extrapolate"],
        "options": {"extrapolate": {"beyond": "best", "away_from": "base"}},
    },
    f"ramp {RAMP}": {
        "base": True, "methods": ["best", "twa-layerwise"], "options": {"twa-layerwise": {"ramp": RAMP}}
    },
}  # fmt: skip
"""What is measured; a job's name stands behind the methods that it has options for."""
SHOWN = (
    *("best", "uniform", "greedy-soup", "twa", "twa-layerwise", "model-stock", "wise-ft"),
    *("wise-ft, to best", "extrapolate, away from base", f"twa-layerwise, ramp {RAMP}", WITHOUT, WITH),
)
COMPARED = (
    ("model-stock", "uniform"),
    ("model-stock", "greedy-soup"),
    ("wise-ft", "uniform"),
    ("wise-ft, to best", "best"),
    ("extrapolate, away from base", "best"),
    (f"twa-layerwise, ramp {RAMP}", "twa-layerwise"),
    (WITH, WITHOUT),
)


def main() -> None:
    arguments = parser_of_sets(__doc__).parse_args()
    add_rows(NAME, arguments, lambda prepared: [measured(prepared)], markdown)


def measured(prepared: PreparedSet) -> dict[str, Any]:
    """Of one set: test scores by method, and which method `auto` returned."""
    if prepared.ancestor is None:
        raise SystemExit(f"`{prepared.name}` must be a set of fine-tunes whose ancestor is kept: {prepared.folder}")
    row: dict[str, Any] = {"set": prepared.name, "seed": prepared.seed, "test": {}, "labels": {}, "returned": {}}
    for job, wanted in JOBS.items():
        with tempfile.TemporaryDirectory() as temporary:
            output = Path(temporary) / "out"
            base = prepared.ancestor if wanted.get("base") else None
            outcome = average(
                prepared.checkpoints,
                prepared.val,
                output=output,
                task=prepared.task,
                method_options={key: wanted[key] for key in ("methods", "options") if key in wanted},
                seed=prepared.seed,
                base=base,
            )
            row["K"], row["metric"] = len(prepared.found.names), outcome.metric
            for score in outcome.candidates:
                name = f"{score.method}, {job}" if score.method in wanted.get("options", {}) else score.method
                is_known = name in row["test"]
                if is_known and score.method != outcome.method:
                    continue
                state = candidate_state(output, prepared.checkpoints, score.method, base=base)
                scores = prepared.test(state)
                test = {each: scores[each] for each in dict.fromkeys(("loss", outcome.metric))}
                if not is_known:
                    row["test"][name], row["labels"][name] = test, score.label
                if score.method == outcome.method and job in (WITHOUT, WITH):
                    row["test"][job], row["returned"][job] = test, score.method
    return row


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# What a base is good for",
        "",
        f"`python benchmarks/base.py`. Test losses on {len(rows)} sets of fine-tunes whose ancestor is known.",
        "",
        *table_lines(
            ("set, seed", "K", *(f"`{name}`" if name not in (WITHOUT, WITH) else name for name in SHOWN)),
            (
                [f"{row['set']} {row['seed']}", str(row["K"]), *(f"{row['test'][name]['loss']:.4f}" for name in SHOWN)]
                for row in rows
            ),
        ),
        "",
        "Means of differences over sets, negative where the first is better; after ±, their standard errors.",
        "",
        *table_lines(
            ("", "against", "test loss", "lower on", "test metric, points"),
            (
                [f"`{one}`", f"`{other}`", *_differences(rows, one, other)]
                for one, other in COMPARED
            ),
        ),
        "",
        *table_lines(
            ("set, seed", "`auto` returned", "with the base", "what `wise-ft` chose", "what `wise-ft`, to best, chose"),
            (
                [
                    f"{row['set']} {row['seed']}",
                    row["returned"][WITHOUT],
                    row["returned"][WITH],
                    row["labels"]["wise-ft"],
                    row["labels"]["wise-ft, to best"],
                ]
                for row in rows
            ),
        ),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _differences(rows: Sequence[Mapping[str, Any]], one: str, other: str) -> list[str]:
    pairs = [(row["test"][one], row["test"][other], row["metric"]) for row in rows]
    of_loss = [100 * (own["loss"] / beside["loss"] - 1) for own, beside, _ in pairs]
    # All of these metrics are better the higher they are; negative is better here as for the loss.
    of_metric = [100 * (beside[metric] - own[metric]) for own, beside, metric in pairs]
    lower = sum(each < 0 for each in of_loss)
    return [f"{_with_error(of_loss)} %", f"{lower} of {len(of_loss)}", _with_error(of_metric)]


def _with_error(values: Sequence[float]) -> str:
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.2f}{error}"


if __name__ == "__main__":
    main()
