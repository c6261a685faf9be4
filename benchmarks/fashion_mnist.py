"""Every method on Fashion-MNIST: 16 epochs of a small CNN, judged on 10,000 untouched images.

    make bench        or        python benchmarks/fashion_mnist.py --seeds 0 1 2 --batch-norm both

20,000 images train the network, 4,000 are Ladle's validation set (half of them select), 10,000 are never shown to it.
The images are Debian's package `dataset-fashion-mnist`. Checkpoints are kept in `.cache/fashion-mnist/`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ladle_small_cnn import SmallCnn
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from ladle_engine import average, candidate_state
from ladle_engine.report import versions

REPOSITORY = Path(__file__).parents[1]
CACHE = REPOSITORY / ".cache" / "fashion-mnist"
RESULTS = Path(__file__).parent / "results" / "fashion_mnist.json"
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")

NUM_TRAIN, NUM_VAL, EPOCHS = 20_000, 4_000, 16
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
            folder = prepare(seed, batch_norm)
            if not arguments.train_only:
                runs.append(compare(folder, seed, batch_norm))
                console.print(table_of(runs[-1]))
    if arguments.train_only:
        return
    for batch_norm in settings:
        console.print(mean_table([run for run in runs if run["batch_norm"] == batch_norm], batch_norm))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"epochs": EPOCHS, "versions": versions(), "runs": runs}, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(markdown(runs))
    console.print(f"Figures: {RESULTS.relative_to(REPOSITORY)} and .md")


def prepare(seed: int, batch_norm: bool) -> Path:
    """Trains one network unless its checkpoints are there, and returns the folder with them and the data sets."""
    folder = CACHE / f"{'bn' if batch_norm else 'plain'}-{seed}"
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    images, labels = load("train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, val = order[:NUM_TRAIN], order[NUM_TRAIN : NUM_TRAIN + NUM_VAL]
    np.savez(folder / "val.npz", images=images[val].numpy(), labels=labels[val].numpy())
    architecture = {"num_channels": 1, "num_classes": 10, "image_size": 28, "width": 8, "batch_norm": batch_norm}
    (checkpoints / "config.json").write_text(json.dumps({"ladle_task": "small-cnn", **architecture}))
    torch.manual_seed(seed)
    model = SmallCnn(**architecture)  # type: ignore[arg-type]  # the values are what their names say
    # An ordinary recipe: Adam at its usual rate, batch 128, no schedule, no augmentation.
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, EPOCHS + 1):
        for step in torch.randperm(NUM_TRAIN, generator=generator).split(128):
            chosen = train[step]
            loss = F.cross_entropy(model(images[chosen].float()[:, None] / 255), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        save_file(model.state_dict(), checkpoints / f"epoch-{epoch:02}.safetensors")
    (folder / "done").touch()
    return folder


def compare(folder: Path, seed: int, batch_norm: bool) -> dict[str, Any]:
    """Ladle with its defaults, and every candidate on the test set."""
    checkpoints = folder / "checkpoints"
    config = json.loads((checkpoints / "config.json").read_text())
    config.pop("ladle_task")
    images, labels = load("t10k")
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "out"
        outcome = average(checkpoints, folder / "val.npz", output=output)
        report = json.loads((output / "report.json").read_text())
        rows = []
        for score, candidate in zip(outcome.candidates, report["candidates"], strict=True):
            state = candidate_state(output / "coefficients.json", checkpoints, score.method)
            loss, accuracy = test(config, state, images, labels)
            rows.append(
                {
                    "method": score.method,
                    "label": score.label,
                    "test_loss": loss,
                    "test_accuracy": accuracy,
                    "select_loss": score.select["loss"],
                    "select_accuracy": score.select["accuracy"],
                    "seconds": candidate["seconds"],
                }
            )
    losses = {row["method"]: row["test_loss"] for row in rows}
    return {
        "seed": seed,
        "batch_norm": batch_norm,
        "winner": outcome.method,
        "rows": rows,
        "layerwise_below": {method: losses["twa-layerwise"] < losses[method] for method in TO_BEAT},
    }


@torch.no_grad()
def test(config: Mapping[str, Any], state: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the untouched images."""
    model = SmallCnn(**config)
    model.load_state_dict(state)
    model.eval()
    logits = torch.cat([model(part.float()[:, None] / 255) for part in images.split(1000)])
    return float(F.cross_entropy(logits, labels)), float((logits.argmax(dim=1) == labels).float().mean())


def load(which: str) -> tuple[Tensor, Tensor]:
    """uint8 [N, 28, 28] and int64 [N] of `train` or `t10k`."""
    folder = find_package()
    with gzip.open(folder / f"{which}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{which}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), dtype=np.uint8, offset=8)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def find_package() -> Path:
    """The package's folder: installed, or unpacked into the cache without installing it."""
    if INSTALLED.is_dir():
        return INSTALLED
    unpacked = CACHE / "package"
    if not (unpacked / INSTALLED.relative_to("/")).is_dir():
        unpacked.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", PACKAGE], cwd=unpacked, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"`{PACKAGE}` must be installed or downloadable; try `apt-get install {PACKAGE}`."
            ) from error
        (archive,) = unpacked.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
    return unpacked / INSTALLED.relative_to("/")


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
        f"Made by `make bench`. {EPOCHS} epochs of a small CNN (Adam, 1e-3, batches of 128) on {NUM_TRAIN:,} images; "
        f"{NUM_VAL:,} for Ladle, half of which select; judged on 10,000 that neither has seen. Ladle's defaults. "
        f"Test loss, and test accuracy in percent; bold is the lowest loss.",
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
