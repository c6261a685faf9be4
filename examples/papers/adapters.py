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
from comparing import Clock, TestSet, compare, quick_options, rounded
from language_run import make_base
from peft import PeftModel
from places import made_once
from results import Results, arguments, cache_folder
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from ladle_engine import combine_checkpoints, rebuild
from ladle_engine.checkpoints import discover

METHODS = ("best", "uniform", "greedy-soup", "twa", "twa-layerwise")


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

    rows = compare(
        adapters,
        folder / "val.jsonl",
        test,
        METHODS,
        options=quick_options(METHODS) if quick else None,
        state_of=partial(_written, adapters=adapters, base=base),
        task="causal-lm",
        seed=seed,
        base_model=base,
    )
    others: dict[str, dict[str, Any]] = {
        "uniform-rank-8": {"adapter_rank": 8},
        "uniform-factors": {"adapter_space": "factors"},
    }
    means = [
        {"method": name, "label": name, "test": rounded(test.scores(_mean(adapters, base, arguments)))}
        for name, arguments in others.items()
    ]
    return {
        "seed": seed,
        "test_examples": len(test),
        "rows": [own, *rows, *means],
        "compare_cpu_s": clock.seconds(),
    }


def _mean(adapters: Path, base: Path, arguments: Mapping[str, Any]) -> Mapping[str, Tensor]:
    with tempfile.TemporaryDirectory() as temporary:
        return _loaded(combine_checkpoints(adapters, output=Path(temporary) / "mean", **arguments), base)


def _written(coefficients: Path, method: str, adapters: Path, base: Path) -> Mapping[str, Tensor]:
    with tempfile.TemporaryDirectory() as temporary:
        return _loaded(rebuild(coefficients, adapters, output=Path(temporary) / "made", candidate=method), base)


def _loaded(adapter: Path, base: Path) -> Mapping[str, Tensor]:
    """The base model with what PEFT loads in it."""
    loaded: Any = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), adapter)
    state: Mapping[str, Tensor] = loaded.merge_and_unload().state_dict()
    return state


if __name__ == "__main__":
    main()
