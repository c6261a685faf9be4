"""Tensors' names: wrappers put prefixes before them, and two sets of names may fit once a prefix is gone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from ladle_engine.checkpoints.types import TensorInfo

PRIVATE_WRAPPERS = frozenset(
    {"_orig_mod", "_module", "_forward_module", "_fpw_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
"""What torch.compile, Opacus, DeepSpeed, FSDP and activation checkpointing call the module that they wrap."""

WRAPPERS = PRIVATE_WRAPPERS | {"module"}
"""`module` is DistributedDataParallel's, DataParallel's and AveragedModel's, and may be a model's own too."""


MOST_PREFIXES = 8
"""That are tried. Each takes as much memory as the names themselves."""


def unwrapped(stored: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Name without wrappers -> name as stored.

    `module.` goes where every name begins with it, but for single whole numbers beside (`n_averaged`); wrappers that
    begin with an underscore go anywhere. Nothing is taken off that would make two names equal.
    """
    names = {name: _without(name, PRIVATE_WRAPPERS) for name in stored}
    for _ in range(MOST_PREFIXES):
        if not all(names[name].startswith("module.") for name in _weights(stored)):
            break
        names = {name: inner.removeprefix("module.") for name, inner in names.items()}
    mapping = {inner: name for name, inner in names.items()}
    return mapping if len(mapping) == len(stored) else {name: name for name in stored}


def asked_for(like: Mapping[str, TensorInfo], stored: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The names under which a file's tensors are asked for -> the names under which it holds them.

    `like` are the reference's tensors. What fits none of them keeps its own name, without wrappers.
    """
    own = unwrapped(stored)
    if not like or own.keys() == like.keys():
        return own
    fitting = fit(like, {name: stored[original] for name, original in own.items()})
    used = set(fitting.values())
    rest = {name: original for name, original in own.items() if name not in used and name not in fitting}
    return {name: own[inner] for name, inner in fitting.items()} | rest


def fit(wanted: Mapping[str, TensorInfo], present: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Wanted name -> name that is present, for all that there are.

    Wrappers do not count. A prefix that all of one side have (`model.`, `net.`, `ema_model.`, several) and the other
    side has not is left out of account where more names fit so.
    """
    if all(name in present for name in wanted):
        return {name: name for name in wanted}
    plain_wanted, *shorter_wanted = shortened(wanted)
    plain_present, *shorter_present = shortened(present)
    tries = [
        (plain_wanted, plain_present),
        *((plain_wanted, each) for each in shorter_present),
        *((each, plain_present) for each in shorter_wanted),
    ]
    fitting = [{name: other_of[key] for key, name in name_of.items() if key in other_of} for name_of, other_of in tries]
    return max(fitting, key=len)


def shortened(infos: Mapping[str, TensorInfo]) -> list[dict[str, str]]:
    """Ways to shorten names, each as short name -> name: without wrappers, then also without each common prefix."""
    keys = {_without(name, WRAPPERS): name for name in infos}
    if len(keys) < len(infos):
        # Two names would become one.
        keys = {name: name for name in infos}
    return [keys, *({key.removeprefix(each): name for key, name in keys.items()} for each in _prefixes(keys, infos))]


def is_counter(info: TensorInfo) -> bool:
    """One whole number, such as `num_batches_tracked` or AveragedModel's `n_averaged`."""
    return info.numel == 1 and not info.is_averaged


def _prefixes(keys: Mapping[str, str], infos: Mapping[str, TensorInfo]) -> list[str]:
    """`a.`, `a.b.` ... that the keys of all weights begin with."""
    weights = set(_weights(infos))
    levels = zip(*(key.split(".")[:-1] for key, name in keys.items() if name in weights), strict=False)
    same = itertools.takewhile(lambda modules: len(set(modules)) == 1, itertools.islice(levels, MOST_PREFIXES))
    shared = [modules[0] for modules in same]
    return [".".join(shared[:end]) + "." for end in range(1, len(shared) + 1)]


def _weights(infos: Mapping[str, TensorInfo]) -> list[str]:
    """The names that decide on prefixes: all but counters, which wrappers add without one."""
    return [name for name, info in infos.items() if not is_counter(info)] or list(infos)


def _without(name: str, components: frozenset[str]) -> str:
    kept = [component for component in name.split(".") if component not in components]
    return ".".join(kept) or name
