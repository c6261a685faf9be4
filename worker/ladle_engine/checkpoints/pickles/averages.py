"""Averages that were made while training (EMA, SWA), which lie beside the model in the same file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ladle_engine.checkpoints.pickles.modules import Modules, may_hold_weights
from ladle_engine.checkpoints.pickles.values import StoredTensor

EMA = re.compile(r"(^|[_.-])(model)?(ema|swa|averaged?|avg|shadow|polyak)(model)?([_.-]|$)", re.IGNORECASE)
"""Keys of an average. It is another model than the one trained."""

OF_TRAINING = re.compile(r"optim|sched|scaler", re.IGNORECASE)
"""Keys of states whose averages are of gradients: `exp_avg`."""

MAX_DEPTH = 5
"""How many dicts may lie around an average: Lightning keeps some under the callbacks' states."""
MAX_VISITS = 100_000
MOST_ENTRIES = 100
"""That are looked at until a tensor must be among them."""

SWAPPED = {
    # Lightning 2.6, `WeightAveraging`; it has `averaging_state` beside.
    "current_model_state": "averaging_state",
    # mmengine, `EMAHook._swap_ema_state_dict`: the model that is trained is under the average's name.
    "ema_state_dict": "message_hub",
}
"""Key of the model -> key of what is beside it, where `state_dict` has the average."""


def is_average_key(key: Any) -> bool:
    return EMA.search(str(key)) is not None


def swapped_key(loaded: Mapping[Any, Any]) -> str | None:
    """The key of the model, where the average is in its place under `state_dict`."""
    return next((key for key, beside in SWAPPED.items() if key in loaded and beside in loaded), None)


def averages_in(loaded: Any, modules: Modules) -> Iterator[tuple[str, Any]]:
    """What lies under keys of averages, the nearest to the top first, with its path of keys."""
    level: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    seen: set[int] = set()
    visits = 0
    for _ in range(MAX_DEPTH):
        inner: list[tuple[tuple[str, ...], Any]] = []
        for path, value in level:
            for key, each in modules.as_mapping(value).items():
                visits += 1
                if visits > MAX_VISITS:
                    return
                if id(each) in seen or not may_hold_weights(each) or OF_TRAINING.search(str(key)):
                    continue
                seen.add(id(each))
                where = (*path, str(key)[:100])
                if is_average_key(key):
                    yield " / ".join(where), each
                inner.append((where, each))
        level = inner


def names_its_tensors(average: Any, modules: Modules) -> bool:
    """Not a list without names (`shadow_params` of torch-ema), which nobody can tell which tensor is which of."""
    level, visits = [average], 0
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            for each in modules.as_mapping(value).values():
                visits += 1
                if isinstance(each, StoredTensor) and each.info.shape:
                    return True
                if visits > MOST_ENTRIES:
                    return False
                inner += [each] if may_hold_weights(each) else []
        level = inner
    return False


def with_the_models_names(average: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model's tensors in its order, each with the average's numbers where it has them.

    Averages have a wrapper's prefix, or no buffers. None where the average has a tensor that the model has not.
    """
    by_name = {_bare(name): tensor for name, tensor in average.items() if not _is_count(name, tensor)}
    names = {name: _bare(name) for name in model}
    if not by_name or by_name.keys() - set(names.values()):
        return None
    return {name: by_name.get(bare, model[name]) for name, bare in names.items()}


def _bare(name: str) -> str:
    parts = name.split(".")
    return ".".join(part for part in parts if part not in ("module", "_orig_mod"))


def _is_count(name: str, tensor: Any) -> bool:
    """`n_averaged`, `steps` and `initted`: how often the average was updated."""
    return isinstance(tensor, StoredTensor) and tensor.info.shape in ((), (1,)) and "." not in name
