"""The checkpoint sets on which defaults are tuned and proved: each with a validation set and an untouched test set.

    python benchmarks/checkpoint_sets.py --sets digits gpt2-docs --seeds 0 1

makes what is not there yet and prints what averaging is worth: the test loss of the best single checkpoint (chosen on
the test set), of the mean of all, and of the mean of the last five. Sets lie in CACHE/checkpoint-sets/<name>-<seed>/;
CACHE is `.cache` or $LADLE_BENCH_CACHE.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import image_sets
import language_sets
import small_sets
import solar_cells
import torch
from causal_lm import CausalLmTask
from ladle_small_cnn import SmallCnnTask
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from solar_cells import SolarCells
from sources import CACHE
from torch import Tensor

from ladle_engine import discover
from ladle_engine.checkpoints import CheckpointSet
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.model.binding import Binding, bind
from ladle_engine.tasks import Task
from ladle_engine.tasks.examples import Examples

DONE = "done"
"""Only a folder with this file is whole."""


@dataclass(frozen=True, kw_only=True)
class SetKind:
    """How the sets of one name are made, for any seed."""

    make: Callable[[Path, int], None]
    """Fills an empty folder: checkpoints/, val.*, test.*, and perhaps train.* and ancestor.safetensors."""
    task: type[Task] = SmallCnnTask


@dataclass(frozen=True, kw_only=True)
class PreparedSet:
    """A set on disk."""

    name: str
    seed: int
    folder: Path
    task: Task

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def val(self) -> Path:
        """What Ladle gets."""
        return self._data("val")

    @property
    def test_data(self) -> Path:
        """What it never gets."""
        return self._data("test")

    @property
    def ancestor(self) -> Path | None:
        """What the checkpoints were fine-tuned from, where that is known."""
        path = self.folder / "ancestor.safetensors"
        return path if path.exists() else None

    @property
    def train(self) -> Path | None:
        """What TWA-t trains on, in the sets of the head stage."""
        found = list(self.folder.glob("train.*"))
        return found[0] if found else None

    @cached_property
    def found(self) -> CheckpointSet:
        return discover(self.checkpoints)

    def examples(self, path: Path, indices: Tensor | None = None) -> Examples:
        data = self.task.open_data(path, self.found)
        chosen = torch.arange(len(data)) if indices is None else indices
        return Examples(task=self.task, data=data, indices=chosen, device=torch.device("cpu"))

    def new_binding(self) -> Binding:
        """A new model, its tensors under the checkpoints' names."""
        model = self.task.build_model(self.found)
        return bind(model, self.found, self.task.stored_names(model, self.found))

    def test(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """The state's `scores` on the test set."""
        return self.scores(state, self._test_examples)

    def scores(self, state: Mapping[str, Tensor], examples: Examples) -> dict[str, float]:
        """Metric name -> mean over the examples, of a state dict named as in the checkpoints."""
        binding = self.new_binding()
        with torch.no_grad():
            for name, target in {**binding.parameters, **binding.statistics, **binding.counters}.items():
                target.copy_(state[name])
        return evaluate(binding.model, examples, SingleProcess()).scores()

    def states(self) -> list[dict[str, Tensor]]:
        """Every checkpoint, in order of step."""
        return [load_file(checkpoint.files[0]) for checkpoint in self.found.checkpoints]

    @cached_property
    def _test_examples(self) -> Examples:
        return self.examples(self.test_data)

    def _data(self, which: str) -> Path:
        (path,) = self.folder.glob(f"{which}.*")
        return path


def prepare(name: str, seed: int) -> PreparedSet:
    """Makes the set unless it is there. It appears whole or not at all."""
    kind = SETS[name]
    folder = CACHE / "checkpoint-sets" / f"{name}-{seed}"
    if not (folder / DONE).exists():
        staging = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            kind.make(staging, seed)
            (staging / DONE).touch()
            shutil.rmtree(folder, ignore_errors=True)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return PreparedSet(name=name, seed=seed, folder=folder, task=kind.task.from_options({}))


def _tail_of(whole: str, folder: Path, seed: int) -> None:
    image_sets.tail(folder, prepare(whole, seed).folder)


SETS: dict[str, SetKind] = {
    "digits": SetKind(make=image_sets.digits),
    "digits-bn": SetKind(make=image_sets.digits_batch_norm),
    "fashion-plain": SetKind(make=partial(image_sets.fashion, batch_norm=False)),
    "fashion-bn": SetKind(make=partial(image_sets.fashion, batch_norm=True)),
    "fashion-plain-tail": SetKind(make=partial(_tail_of, "fashion-plain")),
    "fashion-bn-tail": SetKind(make=partial(_tail_of, "fashion-bn")),
    "fashion-plain-head": SetKind(make=partial(image_sets.fashion_head, batch_norm=False)),
    "fashion-bn-head": SetKind(make=partial(image_sets.fashion_head, batch_norm=True)),
    "finetunes": SetKind(make=image_sets.fine_tunes),
    "gpt2-docs": SetKind(make=language_sets.gpt2_docs, task=CausalLmTask),
    "solar-cells": SetKind(make=solar_cells.solar_cells, task=SolarCells),
    **{name: SetKind(make=small_sets.maker(name), task=family.task) for name, (family, _) in small_sets.SMALL.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=SETS, nargs="+", default=list(SETS), metavar="SET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("set", "seed", "K", "best single", "mean", "last 5", "s to make", title="test loss, accuracy")
    console = Console()
    for name in arguments.sets:
        for seed in arguments.seeds:
            started = time.monotonic()
            prepared = prepare(name, seed)
            made_s = time.monotonic() - started
            table.add_row(name, str(seed), *worth(prepared), f"{made_s:.0f}")
            console.print(prepared.folder)
    console.print(table)


def worth(prepared: PreparedSet) -> tuple[str, str, str, str]:
    """K, and three scores: what averaging is worth in this set."""
    states = prepared.states()
    best = min((prepared.test(state) for state in states), key=lambda scores: scores["loss"])
    return (
        str(len(states)),
        _text(best),
        _text(prepared.test(mean_state(states))),
        _text(prepared.test(mean_state(states[-5:]))),
    )


def mean_state(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of floating tensors, BatchNorm's statistics too; of the others, the last."""
    states = list(states)
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if tensor.is_floating_point() else tensor
        for name, tensor in states[-1].items()
    }


def _text(scores: Mapping[str, float]) -> str:
    accuracy = f", {100 * scores['accuracy']:.2f} %" if "accuracy" in scores else ""
    return f"{scores['loss']:.4f}{accuracy}"


if __name__ == "__main__":
    main()
