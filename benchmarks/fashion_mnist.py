"""Every method on Fashion-MNIST: 16 epochs of a small CNN, judged on 10,000 untouched images.

    make bench-accuracy        or        python benchmarks/fashion_mnist.py --seeds 0 1 2 --batch-norm both

20,000 images train the network, 4,000 are Ladle's validation set (half of them select), 10,000 are never shown to it.
The images are Debian's package `dataset-fashion-mnist`. Checkpoints are kept as `checkpoint_sets.py` says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checkpoint_sets import PreparedSet, prepare
from image_sets import EPOCHS, NUM_TRAIN, NUM_VAL
from measuring import save
from rich.console import Console
from rich.table import Table

from ladle_engine import average, candidate_state
from ladle_engine.versions import versions

TO_BEAT = ("best", "uniform", "last-k", "greedy-soup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-norm", choices=["no", "yes", "both"], default="both")
    parser.add_argument("--train-only", action="store_true", help="only make the checkpoints")
    arguments = parser.parse_args()
    settings = {"no": [False], "yes": [True], "both": [False, True]}[arguments.batch_norm]
    console = Console()
    runs = []
    for batch_norm in settings:
        for seed in arguments.seeds:
            prepared = prepare("fashion-bn" if batch_norm else "fashion-plain", seed)
            if not arguments.train_only:
                runs.append(compare(prepared, batch_norm))
                console.print(table_of(runs[-1]))
    if arguments.train_only:
        return
    for batch_norm in settings:
        console.print(mean_table([run for run in runs if run["batch_norm"] == batch_norm], batch_norm))
    console.print(save("fashion_mnist", {"epochs": EPOCHS, "versions": versions(), "runs": runs}, markdown(runs)))


def compare(prepared: PreparedSet, batch_norm: bool) -> dict[str, Any]:
    """Ladle with its defaults, and every candidate on the test set."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "out"
        outcome = average(prepared.checkpoints, prepared.val, output=output)
        report = json.loads((output / "report.json").read_text())
        rows = []
        for score, candidate in zip(outcome.candidates, report["candidates"], strict=True):
            state = candidate_state(output / "coefficients.json", prepared.checkpoints, score.method)
            test = prepared.test(state)
            rows.append(
                {
                    "method": score.method,
                    "label": score.label,
                    "test_loss": test["loss"],
                    "test_accuracy": test["accuracy"],
                    "select_loss": score.select["loss"],
                    "select_accuracy": score.select["accuracy"],
                    "seconds": candidate["seconds"],
                }
            )
    losses = {row["method"]: row["test_loss"] for row in rows}
    return {
        "seed": prepared.seed,
        "batch_norm": batch_norm,
        "winner": outcome.method,
        "rows": rows,
        "layerwise_below": {method: losses["twa-layerwise"] < losses[method] for method in TO_BEAT},
    }


def table_of(run: Mapping[str, Any]) -> Table:
    kind = "with BatchNorm" if run["batch_norm"] else "without BatchNorm"
    table = Table("method", "test loss", "test accuracy", "select loss", "s", title=f"seed {run['seed']}, {kind}")
    for row in run["rows"]:
        table.add_row(
            row["label"],
            f"{row['test_loss']:.4f}",
            f"{100 * row['test_accuracy']:.2f} %",
            f"{row['select_loss']:.4f}",
            f"{row['seconds']:.1f}",
        )
    below = [method for method, is_below in run["layerwise_below"].items() if is_below]
    table.caption = f"twa-layerwise is below: {', '.join(below) or 'none'}; Ladle picked {run['winner']}"
    return table


def markdown(runs: Iterable[Mapping[str, Any]]) -> str:
    """Test loss and accuracy of every run: what the documents link to."""
    lines = [
        "# Fashion-MNIST",
        "",
        f"Made by `make bench-accuracy`. {EPOCHS} epochs of a small CNN (Adam, 1e-3, batches of 128) on {NUM_TRAIN:,} "
        f"images; {NUM_VAL:,} for Ladle, half of which select; judged on 10,000 that neither has seen. Ladle's "
        f"defaults. Test loss, and test accuracy in percent; bold is the lowest loss.",
    ]
    for batch_norm in (False, True):
        chosen = [run for run in runs if run["batch_norm"] == batch_norm]
        if not chosen:
            continue
        lines += ["", f"## {'With' if batch_norm else 'Without'} BatchNorm", ""]
        lines.append("| method | " + " | ".join(f"seed {run['seed']}" for run in chosen) + " |")
        lines.append("|---" * (len(chosen) + 1) + "|")
        lowest = [min(row["test_loss"] for row in run["rows"]) for run in chosen]
        for position, first in enumerate(chosen[0]["rows"]):
            cells = []
            for run, low in zip(chosen, lowest, strict=True):
                row = run["rows"][position]
                loss = f"**{row['test_loss']:.4f}**" if row["test_loss"] == low else f"{row['test_loss']:.4f}"
                cells.append(f"{loss}, {100 * row['test_accuracy']:.2f}")
            lines.append(f"| `{first['method']}` | " + " | ".join(cells) + " |")
        lines.append("| Ladle returns | " + " | ".join(f"`{run['winner']}`" for run in chosen) + " |")
    return "\n".join(lines) + "\n"


def mean_table(runs: Iterable[Mapping[str, Any]], batch_norm: bool) -> Table:
    runs = list(runs)
    kind = "with BatchNorm" if batch_norm else "without BatchNorm"
    table = Table("method", "test loss", "test accuracy", title=f"mean of {len(runs)} seeds, {kind}")
    for position, first in enumerate(runs[0]["rows"]):
        rows = [run["rows"][position] for run in runs]
        loss = sum(row["test_loss"] for row in rows) / len(rows)
        accuracy = sum(row["test_accuracy"] for row in rows) / len(rows)
        table.add_row(first["method"], f"{loss:.4f}", f"{100 * accuracy:.2f} %")
    held = sum(all(run["layerwise_below"].values()) for run in runs)
    table.caption = f"twa-layerwise is below {', '.join(TO_BEAT)} for {held} of {len(runs)} seeds"
    return table


if __name__ == "__main__":
    main()
