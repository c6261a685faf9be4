"""One race over profiles in place of three rows: what it costs and what it finds.

    python benchmarks/profiles.py --sets digits digits-bn --seeds 0 1 2 3

For each set two jobs, judged by the accuracy and again by the loss: `best` with `uniform`, `last-k` and `ema`, and
`best` with `profile`. Counted are the examples on which models were evaluated, without those of `best`.
The best of the three rows on the select split, and `profile`, are then scored on a test set that neither has seen.
Figures go to `results/profiles.md`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from checkpoint_sets import PreparedSet, prepare
from measuring import save
from rich.console import Console

from ladle_engine import average, candidate_state
from ladle_engine.evaluation.cache import Evaluations
from ladle_engine.methods import context
from ladle_engine.progress import CandidateScored, ProgressEvent
from ladle_engine.versions import versions

THREE, ONE = ("uniform", "last-k", "ema"), ("profile",)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one job chose, among its rows without `best`."""

    label: str
    examples: int
    """Evaluated, `best` apart."""
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both on one set."""

    set: str
    seed: int
    metric: str
    checkpoints: int
    three: Found
    one: Found


class Counted(Evaluations):
    """What a job knows of its models, and on how many examples they were evaluated since `best` was judged."""

    newest: ClassVar[Counted]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._for_best = 0
        Counted.newest = self

    @property
    def examples(self) -> int:
        return self.num_judged - self._for_best

    @staticmethod
    def note(event: ProgressEvent) -> None:
        """`best` runs first."""
        if isinstance(event, CandidateScored) and event.score.method == "best":
            Counted.newest._for_best = Counted.newest.num_judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["digits"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    arguments = parser.parse_args()
    context.Evaluations = Counted  # type: ignore[attr-defined]  # in this process
    console = Console()
    pairs: list[Pair] = []
    for name in arguments.sets:
        for seed in arguments.seeds:
            pairs += compare(prepare(name, seed))
            # After each set: a long run that ends early has its figures.
            figures = {"versions": versions(), "pairs": [asdict(each) for each in pairs]}
            console.print(save("profiles", figures, told(pairs)))


def compare(prepared: PreparedSet) -> list[Pair]:
    """By the accuracy, and by the loss."""
    pairs = []
    for metric in ("accuracy", "loss"):
        three, one = (run(prepared, methods, metric) for methods in (THREE, ONE))
        pairs.append(
            Pair(
                set=prepared.name,
                seed=prepared.seed,
                metric=metric,
                checkpoints=len(prepared.found.checkpoints),
                three=three,
                one=one,
            )
        )
    return pairs


def run(prepared: PreparedSet, methods: Sequence[str], metric: str) -> Found:
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "out"
        outcome = average(
            prepared.checkpoints,
            prepared.val,
            output=output,
            task=prepared.task,
            method_options={"methods": ["best", *methods]},
            metric=metric,
            seed=prepared.seed,
            progress=Counted.note,
        )
        sign = 1 if outcome.higher_is_better else -1
        rows = [score for score in outcome.candidates if score.method in methods]
        best = max(rows, key=lambda score: (sign * score.select[metric], -score.select["loss"]))
        test = prepared.test(candidate_state(output, prepared.checkpoints, best.method))
    return Found(
        label=best.label,
        examples=Counted.newest.examples,
        test_loss=test["loss"],
        test_accuracy=test["accuracy"],
    )


def lines_of(pairs: Sequence[Pair]) -> list[str]:
    """Rows of the table."""
    return [
        f"| {each.set} {each.seed}, {each.metric} | {each.checkpoints} | "
        + " | ".join(
            f"{found.label} | {found.examples:,} | {found.test_loss:.4f}, {100 * found.test_accuracy:.2f}"
            for found in (each.three, each.one)
        )
        + " |"
        for each in pairs
    ]


def told(pairs: Sequence[Pair]) -> str:
    lines = [
        "# `profile` beside `uniform`, `last-k` and `ema`",
        "",
        "Made by `python benchmarks/profiles.py`. The best of the three rows on the select split, and `profile`: on",
        "how many examples models were evaluated, and the test loss and accuracy (percent) of what they chose.",
        "",
        "| set, judged by | K | of three | examples | test | `profile` | examples | test |",
        "|---|---|---|---|---|---|---|---|",
        *lines_of(pairs),
        "",
    ]
    for metric in ("accuracy", "loss"):
        of = [each for each in pairs if each.metric == metric]
        saved = [each.one.examples / each.three.examples for each in of]
        loss = [100 * (each.one.test_loss / each.three.test_loss - 1) for each in of]
        right = [100 * (each.one.test_accuracy - each.three.test_accuracy) for each in of]
        lines.append(
            f"- Judged by the {metric}, {len(of)} set(s): {100 * statistics.mean(saved):.0f} % of the examples; "
            f"test loss {_with_error(loss)} %, test accuracy {_with_error(right)} points."
        )
    return "\n".join(lines) + "\n"


def _with_error(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):+.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
