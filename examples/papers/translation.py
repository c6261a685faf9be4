"""Table 4: a translator half trained and averaged, against one trained to the end of its schedule.

    python examples/papers/translation.py

English to Italian on Debian's descriptions of packages. 50 checkpoints of the first half of the schedule, from its
very beginning; BLEU of greedy translations of 1,200 untouched paragraphs. TWA trains its coefficients on the training
part, as the paper does, and on the validation set.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from comparing import Clock, TestSet, compare, quick_options, rounded
from places import made_once
from results import Results, arguments, cache_folder
from safetensors.torch import load_file
from translation_run import QUICK, Settings, make_run

METHODS = ("best", "uniform", "twa", "twa-layerwise")
TASK = {"num_beams": 1, "max_new_tokens": 64, "batch_size": 64}


def main() -> None:
    asked = arguments(__doc__)
    settings = QUICK if asked.quick else Settings()
    results = Results("translation", {**asdict(settings), "task": TASK}, quick=asked.quick)
    for seed in asked.seeds:
        folder = cache_folder("translation", quick=asked.quick) / f"seed-{seed}"
        made_once(folder, partial(make_run, seed=seed, settings=settings))
        if not asked.train_only and (asked.again or not results.has(seed=seed)):
            results.add(compared(folder, seed, quick=asked.quick))
            print(results.path, flush=True)


def compared(folder: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    clock, checkpoints = Clock(), folder / "checkpoints"
    test = TestSet(checkpoints, folder / "test.jsonl", "seq2seq", TASK)
    rows = [_single(test, "adam-end", folder / "end"), _single(test, "adam-half", checkpoints)]
    for data, train_set in (("validation part", None), ("training part", folder / "train.jsonl")):
        methods = METHODS if train_set is None else METHODS[2:]
        found = compare(
            checkpoints,
            folder / "val.jsonl",
            test,
            methods,
            options=quick_options(methods) if quick else None,
            task="seq2seq",
            task_options=TASK,
            train_set=train_set,
            seed=seed,
        )
        rows += [{**row, "trained_on": data} for row in found if row["method"] in methods]
    return {"seed": seed, "test_examples": len(test), "rows": rows, "compare_cpu_s": clock.seconds()}


def _single(test: TestSet, method: str, folder: Path) -> dict[str, Any]:
    """The last checkpoint of a folder."""
    last = max(folder.iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    return {"method": method, "label": last.name, "test": rounded(test.scores(load_file(last / "model.safetensors")))}


if __name__ == "__main__":
    main()
