"""Eight LoRA adapters of one base model, averaged in delta space and factor by factor.

    python examples/papers/adapters.py

The base is the language row's first model. Adapters are trained on pages of Python's documentation, with settings drawn
at random. What is scored on the test set is what PEFT loads from the folder that Ladle writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import language_run
from adapters_run import QUICK, Settings, make_sweep
from comparing import Clock, Row, TestSet, compare, quick_options, rounded
from language_run import make_base
from peft import PeftModel
from places import made_once
from results import Results, arguments, cache_folder
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from ladle_engine import rebuild
from ladle_engine.checkpoints import discover

METHODS = ("best", "second-best", "uniform", "greedy-soup", "twa", "twa-layerwise")


def main() -> None:
    asked = arguments(__doc__)
    settings = QUICK if asked.quick else Settings()
    first = language_run.QUICK if asked.quick else language_run.Settings()
    results = Results("adapters", asdict(settings), quick=asked.quick)
    cache = cache_folder("adapters", quick=asked.quick)
    base = made_once(cache_folder("language", quick=asked.quick) / "base", partial(make_base, settings=first))
    for seed in asked.seeds:
        clock = Clock()
        make = partial(make_sweep, base=base, seed=seed, settings=settings, first=first)
        folder = made_once(cache / f"seed-{seed}", make)
        print(f"trained in {clock.seconds()} s of CPU time", flush=True)
        if not asked.train_only and (asked.again or not results.has(seed=seed)):
            results.add(compared(folder, base, seed, quick=asked.quick))
            print(results.path, flush=True)


def compared(folder: Path, base: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    clock, adapters = Clock(), folder / "adapters"
    test = TestSet(discover(base, names=["model.safetensors"]), folder / "test.jsonl", "causal-lm")
    own = {"method": "base", "label": "base", "test": rounded(test.scores(load_file(base / "model.safetensors")))}

    def rows_of(space: str, methods: tuple[str, ...], **others: Any) -> list[Row]:
        return compare(
            adapters,
            folder / "val.jsonl",
            test,
            methods,
            options=quick_options(methods) if quick else None,
            state_of=partial(written, adapters=adapters, base=base),
            task="causal-lm",
            seed=seed,
            adapter_space=space,
            base_model=base,
            **others,
        )

    delta = rows_of("delta", METHODS)
    factors = next(row for row in rows_of("factors", ("best", "uniform")) if row["method"] == "uniform")
    small = next(row for row in rows_of("delta", ("best", "uniform"), adapter_rank=8) if row["method"] == "uniform")
    rows = [own, *delta, _named(small, "uniform-rank-8"), _named(factors, "uniform-factors")]
    return {"seed": seed, "test_examples": len(test), "rows": rows, "compare_cpu_s": clock.seconds()}


def _named(row: Row, method: str) -> Row:
    """One of another job, which returns nothing here."""
    return {**row, "method": method, "winner": False}


def written(coefficients: Path, method: str, adapters: Path, base: Path) -> Mapping[str, Tensor]:
    """The base model with what PEFT loads of a candidate, in it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = rebuild(coefficients, adapters, output=Path(temporary) / "candidate", candidate=method)
        loaded: Any = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), folder)
        state: Mapping[str, Tensor] = loaded.merge_and_unload().state_dict()
        return state


if __name__ == "__main__":
    main()
