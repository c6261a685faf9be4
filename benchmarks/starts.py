"""Where training should start: the centre, or what the fit split picks (`start: auto`).

    python benchmarks/starts.py --sets digits-sweep cells-pretrained --seeds 0 1
    python benchmarks/starts.py --table            (only the table, of what was measured before)

For `twa` and `twa-layerwise`: the TEST loss from both starts, with the default number of steps and with `--few` steps;
and what averages of the checkpoints' outputs are worth, beside averages of their weights with the same coefficients.
Sets are those of `checkpoint_sets.py`, whose tasks must give logits. Each set's figures are kept as they come.
"""

from __future__ import annotations

import json
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

NAME = "starts"
TRAINED = ("twa", "twa-layerwise")
BESIDE = ("best", "greedy-soup", "cached-outputs")
STARTS = ("centre", "auto")
CHOSE_THE_RULE = ("digits",)
"""Sets on which the rule of one standard error was found; the others chose nothing."""


def main() -> None:
    parser = parser_of_sets(__doc__)
    parser.add_argument("--few", type=int, default=15, help="steps of the short runs; 0 for none")
    arguments = parser.parse_args()
    add_rows(NAME, arguments, lambda prepared: [measured(prepared, arguments.few)], markdown)


def measured(prepared: PreparedSet, few: int) -> dict[str, Any]:
    """Of one set: test losses by method, start and number of steps, and what was picked."""
    row: dict[str, Any] = {"set": prepared.name, "seed": prepared.seed, "test_loss": {}, "few": few}
    for steps in (None, few) if few else (None,):
        for start in STARTS:
            options = {"start": start} | ({"steps": steps} if steps else {})
            # The others are the same in all jobs; of the picked start they are the contenders.
            beside = BESIDE if start == "auto" else ()
            with tempfile.TemporaryDirectory() as temporary:
                output = Path(temporary) / "out"
                average(
                    prepared.checkpoints,
                    prepared.val,
                    output=output,
                    task=prepared.task,
                    method_options={"methods": [*beside, *TRAINED], "options": dict.fromkeys(TRAINED, options)},
                    seed=prepared.seed,
                )
                report = json.loads((output / "report.json").read_text())
                for method in (*(beside if steps is None else ()), *TRAINED):
                    key = method if method in BESIDE else f"{method} from {start}{f' in {steps}' if steps else ''}"
                    state = candidate_state(output, prepared.checkpoints, method)
                    row["test_loss"][key] = prepared.test(state)["loss"]
            if start == "auto" and steps is None:
                row |= {"K": len(report["checkpoints"]), "fit": report["splits"]["fit"], "details": report["details"]}
    return row


COLUMNS = (
    *("set, seed", "K", "fit", "outputs", "weights", "picked", "best", "greedy soup", "cached outputs"),
    *("`twa`: centre", "auto", "`twa-layerwise`: centre", "auto"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    losses, cached = row["test_loss"], row["details"]["cached-outputs"]
    return [
        f"{row['set']} {row['seed']}",
        str(row["K"]),
        str(row["fit"]),
        f"{cached['loss_of_outputs']:.4f}",
        f"{cached['loss_of_weights']:.4f}",
        row["details"]["twa"]["start"],
        *(f"{losses[method]:.4f}" for method in BESIDE),
        *(f"{losses[f'{method} from {start}']:.4f}" for method in TRAINED for start in STARTS),
    ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Where training starts",
        "`python benchmarks/starts.py`. Test losses, but for *outputs* and *weights*: the fit loss of the best",
        "average of the outputs, and that of the average of the weights with the same coefficients.",
        "",
        *table_lines(COLUMNS, map(cells, rows)),
        "",
    ]
    fresh = [row for row in rows if row["set"] not in CHOSE_THE_RULE]
    chose = [row for row in rows if row["set"] in CHOSE_THE_RULE]
    for title, some in (("Sets that chose nothing", fresh), ("Sets that chose the rule of one standard error", chose)):
        if some:
            lines += [f"## {title}", "", *summary(some), ""]
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the picked start compares with the centre, and the cached outputs with others; geometric means, with standard
    errors."""
    lines = [
        f"- `cached-outputs` has, against {against}, a test loss that is {compared(pairs)}."
        for against in ("best", "greedy-soup", "twa from centre")
        if (pairs := [(row["test_loss"]["cached-outputs"], row["test_loss"][against]) for row in rows])
    ]
    for method in TRAINED:
        for steps in sorted({0, *(row["few"] for row in rows)}):
            which = f" in {steps}" if steps else ""
            pairs = [
                (row["test_loss"][f"{method} from auto{which}"], row["test_loss"][f"{method} from centre{which}"])
                for row in rows
                if f"{method} from auto{which}" in row["test_loss"]
            ]
            if not pairs:
                continue
            lines.append(
                f"- `{method}`, {f'{steps} steps' if steps else 'default steps'}: from the picked start the test loss "
                f"is {compared(pairs)}."
            )
        short = [
            (row["test_loss"][f"{method} from auto in {row['few']}"], row["test_loss"][f"{method} from centre"])
            for row in rows
            if row["few"]
        ]
        if short:
            lines.append(
                f"- `{method}`: from the picked start in few steps, against the centre with the default number, it is "
                f"{compared(short)}."
            )
    return lines


def compared(pairs: Sequence[tuple[float, float]]) -> str:
    """Of the first numbers to the second ones."""
    logs = [math.log(one / other) for one, other in pairs]
    error = f" ± {100 * statistics.stdev(logs) / math.sqrt(len(logs)):.1f}" if len(logs) > 1 else ""
    lower = sum(one < other for one, other in pairs)
    return f"{100 * statistics.mean(logs):+.1f} %{error} on average, lower on {lower} of {len(pairs)} sets"


if __name__ == "__main__":
    main()
