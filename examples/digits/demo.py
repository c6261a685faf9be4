"""`make demo`: trains a small CNN on real handwritten digits, then lets Ladle average its checkpoints.

    python examples/digits/demo.py [--seed N] [--folder demo-output]

Everything is real: the API, Redis, the Celery worker and the torchrun rank run on this machine for as long as the demo
does. The test set stays here; Ladle never sees it.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ladle_small_cnn import SmallCnn
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor
from train import ARCHITECTURE, EPOCHS, NUM_TRAIN, NUM_VAL, train

from ladle import JobResult, submit
from ladle.cli.local import Stopped, stoppable
from ladle.cli.stack import StackOptions, running_stack
from ladle.cli.watch import watch_job
from ladle_engine import candidate_state

CHECKPOINTS, VAL_SET, TEST_SET, RESULTS = "checkpoints", "val.npz", "test.npz", "ladle-results"
OUTPUT = "model"
MARKER = ".ladle-demo"
"""Only a folder with this file is emptied."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and share of right answers on the test set."""

    loss: float
    accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the network, its data and Ladle's splits")
    parser.add_argument("--folder", type=Path, default=Path("demo-output"), help="emptied of an earlier demo first")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    console = Console(highlight=False)
    started = time.monotonic()
    # A terminal's Ctrl-C and a `kill` alike leave no process of the stack behind.
    with stoppable():
        try:
            prepare(folder, arguments.seed, console)
            result = average(folder, arguments.seed, console)
            report(folder, result, console)
        except Stopped:
            raise SystemExit("stopped; every process of the stack has ended") from None
    console.print(f"{time.monotonic() - started:.0f} s in all. What was made: {folder}", style="dim", soft_wrap=True)


def prepare(folder: Path, seed: int, console: Console) -> None:
    """Trains the network anew and leaves its checkpoints and the data sets in `folder`."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARKER).exists():
            raise SystemExit(f"`--folder` must be new, empty, or an earlier demo's, but `{folder}` holds other files.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    console.rule("1  A network and its checkpoints", align="left")
    with console.status(f"training a small CNN for {EPOCHS} epochs ..."):
        train(folder, seed)
    num_test = len(np.load(folder / TEST_SET)["labels"])
    console.print(f"{EPOCHS} checkpoints of a small CNN, trained on {NUM_TRAIN} handwritten digits.")
    console.print(f"{NUM_VAL} digits are the validation set; {num_test} are the test set, which Ladle never sees.\n")


def average(folder: Path, seed: int, console: Console) -> JobResult:
    """The job, through the real service."""
    console.rule("2  Ladle", align="left")
    options = StackOptions(roots=[folder], results=folder / RESULTS, state=folder / ".stack")
    with console.status("starting Redis, the service and a worker ...") as status, running_stack(options) as stack:
        status.stop()
        job = submit(
            folder / CHECKPOINTS, folder / VAL_SET, url=stack.url, token=stack.token, seed=seed, output={"name": OUTPUT}
        )
        watch_job(job, console)
        result = job.result()
    console.print()
    return result


def report(folder: Path, result: JobResult, console: Console) -> None:
    """Every method on both sets, and the truth about the winner."""
    console.rule("3  The untouched test set", align="left")
    recipe = Path(result.folder) / "coefficients.json"
    scores = {
        candidate.method: test(folder, candidate_state(recipe, folder / CHECKPOINTS, candidate.method))
        for candidate in result.candidates
    }
    singles = [test(folder, state) for state in single_states(folder)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method")
    for name in ("select accuracy", "select loss", "test accuracy", "test loss"):
        table.add_column(name, justify="right")
    for candidate in result.candidates:
        score = scores[candidate.method]
        table.add_row(
            candidate.label,
            f"{100 * candidate.select['accuracy']:.2f} %",
            f"{candidate.select['loss']:.4f}",
            f"{100 * score.accuracy:.2f} %",
            f"{score.loss:.4f}",
            style="bold" if candidate.method == result.method else "",
        )
    console.print(table)
    console.print()
    console.print(verdict(result, scores, singles))
    console.print(f"Model: [bold]{Path(result.folder) / 'model.safetensors'}[/]", soft_wrap=True)


def verdict(result: JobResult, scores: dict[str, Score], singles: list[Score]) -> str:
    if result.method == "best":
        return "[yellow]No average beat the best checkpoint[/] on the select split, so the result is that checkpoint."
    won, bar = scores[result.method], scores["best"]
    beaten = sum(single.loss > won.loss and single.accuracy <= won.accuracy for single in singles)
    numbers = (
        f"test accuracy {100 * bar.accuracy:.2f} % to {100 * won.accuracy:.2f} %, loss {bar.loss:.4f} to {won.loss:.4f}"
    )
    if won.accuracy >= bar.accuracy and won.loss < bar.loss:
        return (
            f"[bold green]{result.method} beats the best checkpoint[/] ({result.best_checkpoint}, chosen on the select "
            f"split) on the untouched test set: {numbers}.\nIt beats {beaten} of {len(singles)} checkpoints on both."
        )
    return f"[yellow]{result.method} won on the select split, but does not beat the best checkpoint here[/]: {numbers}."


def single_states(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(path) for path in sorted((folder / CHECKPOINTS).glob("*.safetensors"))]


@torch.no_grad()
def test(folder: Path, state: dict[str, Tensor]) -> Score:
    with np.load(folder / TEST_SET) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    model = SmallCnn(**ARCHITECTURE)  # type: ignore[arg-type]  # the values are what their names say
    model.load_state_dict(state)
    logits = model.eval()(images)
    return Score(
        loss=float(F.cross_entropy(logits, labels)),
        accuracy=float((logits.argmax(dim=1) == labels).float().mean()),
    )


if __name__ == "__main__":
    main()
