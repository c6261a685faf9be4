"""What `auto` loses by deciding cheaply among near neighbours: races of kin beside races that evaluate everything.

    python benchmarks/cheap_races.py --sets fashion-adam titles-sweep --seeds 0 --splits 10
    python benchmarks/cheap_races.py --table            (only the table, of what was measured before)

For each set and each of so many splits of its validation data two jobs with `auto`. One decides as Ladle does: rows of
one family, and steps along one line, race as kin, and the greedy soup takes its order from the choice of the best
checkpoint. The other evaluates every row on the whole select split, and every checkpoint on the fit split for that
order, as `auto` did before. Compared are the winners, on a test set that neither job has seen, and on how many examples
models were evaluated. Differences on splits of one set are averaged: standard errors are over sets.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint_sets import PreparedSet
from deciding import BEFORE, NOW, Counted, deciding
from measuring import table_lines
from rows_of_sets import add_rows, parser_of_sets

from ladle_engine import average, candidate_state

NAME = "cheap-races"


def main() -> None:
    parser = parser_of_sets(__doc__)
    parser.add_argument("--splits", type=int, default=10)
    arguments = parser.parse_args()
    add_rows(NAME, arguments, lambda prepared: measured(prepared, arguments.splits), markdown)


def measured(prepared: PreparedSet, splits: int) -> list[dict[str, Any]]:
    """One row for each split."""
    rows = []
    for split in range(splits):
        row: dict[str, Any] = {"set": prepared.name, "seed": prepared.seed, "split": split}
        tested: dict[str, dict[str, float]] = {}
        for how in (NOW, BEFORE):
            row[how] = job_of(prepared, split, how, tested)
        rows.append(row)
    return rows


def job_of(prepared: PreparedSet, split: int, how: str, tested: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What a job chose. `tested` are the test scores that are known, by the model's digest."""
    with tempfile.TemporaryDirectory() as temporary, deciding(how):
        output = Path(temporary) / "out"
        outcome = average(prepared.checkpoints, prepared.val, output=output, task=prepared.task, seed=split)
        examples = Counted.newest.num_judged
        report = json.loads((output / "report.json").read_text())
        candidates = {}
        for score in outcome.candidates:
            state = candidate_state(output, prepared.checkpoints, score.method)
            digest = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
            if digest not in tested:
                tested[digest] = prepared.test(state)
            test = {name: tested[digest][name] for name in ("loss", outcome.metric)}
            candidates[score.method] = {"label": score.label, "test": test}
    return {
        "method": outcome.method,
        "metric": outcome.metric,
        "higher_is_better": outcome.higher_is_better,
        "examples": examples,
        "select": report["splits"]["select"],
        "checkpoints": len(report["checkpoints"]),
        "candidates": candidates,
    }


def lost(row: Mapping[str, Any], method: str | None) -> tuple[float, float]:
    """By how much the cheap choice is worse on the test set, of one method or of the winners: the metric in points of
    100, the loss in percent."""
    now, before = (row[how]["candidates"][method or row[how]["method"]]["test"] for how in (NOW, BEFORE))
    sign = 1 if row[NOW]["higher_is_better"] else -1
    metric = row[NOW]["metric"]
    return 100 * sign * (before[metric] - now[metric]), 100 * (now["loss"] / before["loss"] - 1)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    sets = list(dict.fromkeys((row["set"], row["seed"]) for row in rows))
    methods = [name for name in rows[0][NOW]["candidates"] if name != "best"]
    same = sum(row[NOW]["method"] == row[BEFORE]["method"] for row in rows)
    equal = sum(lost(row, None) == (0.0, 0.0) for row in rows)
    share = statistics.mean(row[NOW]["examples"] / row[BEFORE]["examples"] for row in rows)
    lines = [
        "# Deciding cheaply among near neighbours",
        "",
        f"`python benchmarks/cheap_races.py`. {len(rows)} jobs of {len(sets)} sets, each beside one that evaluates",
        f"every row on everything. Models were evaluated on {100 * share:.0f} % of the examples. The same method",
        f"won in {same} jobs, with the same test scores in {equal}. What is lost on the test set, positive where the",
        "cheap choice is worse; after ± are standard errors over sets.",
        "",
        *table_lines(
            ("choice", "lost: metric, points", "lost: loss, %", "other coefficients"),
            (
                [
                    name or "**the winner**",
                    *(_with_error([[lost(row, name)[which] for row in of] for of in by_set(rows)]) for which in (0, 1)),
                    f"{sum(lost(row, name) != (0.0, 0.0) for row in rows)} of {len(rows)}",
                ]
                for name in (None, *methods)
            ),
        ),
        "",
        *table_lines(
            ("set, seed", "K", "select", "jobs", "examples", "same method", "lost: metric", "lost: loss, %"),
            (
                [
                    f"{of[0]['set']} {of[0]['seed']}",
                    str(of[0][NOW]["checkpoints"]),
                    str(of[0][NOW]["select"]),
                    str(len(of)),
                    f"{100 * statistics.mean(row[NOW]['examples'] / row[BEFORE]['examples'] for row in of):.0f} %",
                    str(sum(row[NOW]["method"] == row[BEFORE]["method"] for row in of)),
                    *(f"{statistics.mean(lost(row, None)[which] for row in of):+.2f}" for which in (0, 1)),
                ]
                for of in by_set(rows)
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


def by_set(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["set"], row["seed"]), []).append(row)
    return list(found.values())


def _with_error(values: Sequence[Sequence[float]]) -> str:
    means = [statistics.mean(of) for of in values]
    error = f" ± {statistics.stdev(means) / math.sqrt(len(means)):.3f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):+.3f}{error}"


if __name__ == "__main__":
    main()
