"""Which tensors of a DCP checkpoint are the model's, and their names without the dicts that they were saved in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.dcp.metadata import KeyPath, Metadata
from ladle_engine.checkpoints.pickles.state_dicts import NESTING_KEYS, StateDict, find_state_dict
from ladle_engine.checkpoints.pickles.values import Storage, StoredTensor
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.types import TensorInfo

TRAINING = re.compile(
    r"optim(izer|iser)?s?(_states?)?|.*[._]optimizer|(lr_)?schedulers?|.*scaler|rng.*|data_?loaders?|samplers?|train_state|"
    r"trainer|rerun_state_machine|opt_param_scheduler|args|iteration|checkpoint_version|content_metadata"
)
"""First keys, or first parts of names, of what training needs besides the model."""

MOST_NAMES = 5
"""In a message."""


def weights_of(path: Path, metadata: Metadata, *, use_ema: bool = False) -> StateDict:
    """The storage's key of each tensor is its name in DCP. With `use_ema` they are those of an average.

    Raises `CheckpointError` (corrupt-checkpoint) where there is no model, or there are several.
    """
    paths = _split({name: metadata.paths.get(name, (name,)) for name in [*metadata.tensors, *metadata.values]})
    tree: dict[Any, Any] = {}
    left_out: dict[str, None] = {}
    single = _roots_of_numbers(paths, metadata)
    for name, keys in paths.items():
        if TRAINING.fullmatch(str(keys[0])) or keys[0] in single:
            left_out[str(keys[0])] = None
        elif name in metadata.values:
            if len(keys) == 1 or "_extra_state" in str(keys[-1]):
                left_out["_extra_state" if "_extra_state" in name else name] = None
        elif "_extra_state" in str(keys[-1]):
            left_out["_extra_state"] = None
        else:
            _put(path, tree, keys, _record(name, metadata.tensors[name].info))
    found = find_state_dict(path, tree, use_ema=use_ema)
    return StateDict(tensors=found.tensors, notes=(*found.notes, *_note(left_out)))


def _split(paths: Mapping[str, KeyPath]) -> dict[str, KeyPath]:
    """Names without keys are split at their first part where that tells the model from the rest."""
    flat = {name: name.partition(".") for name, keys in paths.items() if len(keys) == 1}
    training = {name for name, (first, _, rest) in flat.items() if rest and TRAINING.fullmatch(first)}
    firsts = {first for name, (first, _, _) in flat.items() if name not in training}
    cut = set(flat) if training and len(firsts) == 1 and firsts <= set(NESTING_KEYS) else training
    return {name: (flat[name][0], flat[name][2]) if name in cut else keys for name, keys in paths.items()}


def _roots_of_numbers(paths: Mapping[str, KeyPath], metadata: Metadata) -> set[Any]:
    """First keys of dicts whose tensors have one number each, such as a count of steps."""
    largest: dict[Any, int] = defaultdict(int)
    for name, tensor in metadata.tensors.items():
        if len(paths[name]) > 1:
            root = paths[name][0]
            largest[root] = max(largest[root], tensor.info.numel)
    single = {root for root, numel in largest.items() if numel < 2}
    return single if len(single) < len(largest) or any(len(keys) == 1 for keys in paths.values()) else set()


def _put(path: Path, tree: dict[Any, Any], keys: KeyPath, record: StoredTensor) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise corrupt(path, f"must not have both a tensor and more below the key `{key}`")
    if keys[-1] in tree:
        raise corrupt(path, f"must not repeat the key `{keys[-1]}`")
    tree[keys[-1]] = record


def _record(name: str, info: TensorInfo) -> StoredTensor:
    storage = Storage(key=name, dtype_name=str(info.dtype), itemsize=info.dtype.itemsize, count=info.numel)
    return StoredTensor(info=info, storage=storage, offset=0, stride=_contiguous(info.shape))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _note(left_out: Iterable[str]) -> tuple[str, ...]:
    names = list(left_out)
    more = " ..." if len(names) > MOST_NAMES else ""
    shown = ", ".join(f"`{name}`" for name in names[:MOST_NAMES])
    return (f"left out, because they are not weights: {shown}{more}",) if names else ()
