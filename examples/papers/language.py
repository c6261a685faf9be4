"""Table 7: ten checkpoints of a small GPT-2's fine-tuning, by perplexity on untouched documents.

    python examples/papers/language.py

The model is trained on Debian's descriptions of packages and the standard library's sources, then fine-tuned on pages
of Python's documentation.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from comparing import Clock, TestSet, compare, quick_options, rounded
from language_run import QUICK, Settings, make_base, make_run
from places import made_once
from results import Results, arguments, cache_folder
from safetensors.torch import load_file

METHODS = ("best", "second-best", "uniform", "greedy-soup", "twa", "twa-layerwise")


def main() -> None:
    asked = arguments(__doc__)
    settings = QUICK if asked.quick else Settings()
    results = Results("language", asdict(settings), quick=asked.quick)
    cache = cache_folder("language", quick=asked.quick)
    base = made_once(cache / "base", partial(make_base, settings=settings))
    for seed in asked.seeds:
        folder = made_once(cache / f"seed-{seed}", partial(make_run, base=base, seed=seed, settings=settings))
        if not asked.train_only and (asked.again or not results.has(seed=seed)):
            results.add(compared(folder, seed, quick=asked.quick))
            print(results.path, flush=True)


def compared(folder: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    clock, checkpoints = Clock(), folder / "checkpoints"
    test = TestSet(checkpoints, folder / "test.jsonl", "causal-lm")
    last = max(checkpoints.iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    scores = rounded(test.scores(load_file(last / "model.safetensors")))
    rows = compare(
        checkpoints,
        folder / "val.jsonl",
        test,
        METHODS,
        options=quick_options(METHODS) if quick else None,
        task="causal-lm",
        seed=seed,
    )
    rows = [{"method": "last", "label": last.name, "test": scores}, *rows]
    return {"seed": seed, "test_examples": len(test), "rows": rows, "compare_cpu_s": clock.seconds()}


if __name__ == "__main__":
    main()
