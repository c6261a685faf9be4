"""Finds the weights in what a training script saved: a state dict, bare or inside a dict of other things."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Special, Storage, StoredTensor
from ladle_engine.checkpoints.safetensors_file import MAX_TENSORS, corrupt, refuse_name
from ladle_engine.checkpoints.tensor_kinds import refuse_unsupported

NESTING_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Where training scripts keep the weights inside a checkpoint, the most telling name first."""

EMA = re.compile(r"(^|[_.-])(ema|swa|averaged|shadow)([_.-]|$)", re.IGNORECASE)
"""Keys of an average that was made while training. It is another model than the one trained: taken only where there is
nothing else."""

NOT_WEIGHTS = re.compile(
    r"optim|sched|scaler|rng|random|(^|_)(amp|loss(es)?|loops|callbacks|args|config|hparams|hyper_parameters)($|_)",
    re.IGNORECASE,
)
"""Keys of what training needs besides the weights: tensors below them are none of the model's."""

MOST_NAMES = 5
"""In a message."""

MAX_VISITS = 5_000_000
"""Of values beside the weights. Some seconds."""

MAX_DEPTH = 4
"""How many dicts may lie around the state dict."""


PLAIN_TYPES = (
    *(type(None), bool, int, float, str, bytes),
    *(Inert, Name),
)


@dataclass(frozen=True, kw_only=True)
class StateDict:
    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...] = ()
    """What was chosen between, for people."""


def find_state_dict(path: Path, loaded: Any) -> StateDict:
    """Raises `CheckpointError`: corrupt without a state dict or with several, unsupported for a kind of tensor."""
    found = _find(path, loaded, MAX_DEPTH, _Looked())
    if found is None:
        raise corrupt(
            path,
            f"must hold a state dict of tensors, itself or under {', '.join(f'`{key}`' for key in NESTING_KEYS)}, but "
            f"holds {_describe(loaded)}. If it is not a checkpoint, leave it out with `exclude=`",
        )
    return found


def _find(path: Path, loaded: Any, depth: int, looked: _Looked) -> StateDict | None:
    if not isinstance(loaded, Mapping) or depth == 0 or id(loaded) in looked.dicts:
        return None
    looked.dicts.add(id(loaded))
    inner = {key: value for key, value in loaded.items() if isinstance(value, Mapping) and _is_weights_key(key)}
    averages = [key for key, value in inner.items() if EMA.search(str(key)) and not looked.is_plain(value)]
    for key in NESTING_KEYS:
        if key in inner and (found := _find(path, inner[key], depth - 1, looked)) is not None:
            return _with_note(found, key, averages)
    if any(_is_weight(value) for value in loaded.values()):
        return _flat(path, loaded, looked)
    others = {
        key: found for key, value in inner.items() if (found := _find(path, value, depth - 1, looked)) is not None
    }
    if models := [key for key in others if key not in averages]:
        return _with_note(others[_the_only(path, models)], models[0], averages)
    if others:
        ema = _the_only(path, list(others))
        note = f"only the average (EMA) under `{ema}` is there, and is used"
        return StateDict(tensors=others[ema].tensors, notes=(note,))
    # A dict of single numbers alone, which a model may be.
    return _flat(path, loaded, looked) if any(isinstance(value, StoredTensor) for value in loaded.values()) else None


def _the_only(path: Path, keys: list[Any]) -> Any:
    if len(keys) > 1:
        several = " and ".join(f"`{key}`" for key in keys[:3])
        raise corrupt(path, f"must hold one state dict, but {several} each hold one. Save the weights of one alone")
    return keys[0]


def _with_note(found: StateDict, key: Any, averages: list[Any]) -> StateDict:
    if not averages:
        return found
    note = f"the model under `{key}` is used, and the average (EMA) under `{averages[0]}` is not"
    return StateDict(tensors=found.tensors, notes=(*found.notes, note))


def _flat(path: Path, loaded: Mapping[Any, Any], looked: _Looked) -> StateDict:
    """The tensors of a state dict that may have an epoch or an optimiser among them."""
    tensors: dict[str, StoredTensor] = {}
    besides: list[str] = []
    for key, value in loaded.items():
        if _is_besides(key, value, looked):
            besides.append(f"`{key}`")
            continue
        if isinstance(value, Mapping):
            raise corrupt(
                path, f"must hold one state dict, but holds tensors and, under `{key}`, more of them in a dict"
            )
        if not isinstance(key, (str, int)):
            raise corrupt(path, "must name each tensor by a text or a number, but has another kind of key")
        name = str(key)
        refuse_name(path, name)
        if name in tensors:
            raise corrupt(path, f"must not repeat `{name}`, which is there as a text and as a number")
        refuse_unsupported(path, name, value)
        tensors[name] = value
    if len(tensors) > MAX_TENSORS:
        raise corrupt(path, f"must have at most {MAX_TENSORS:,} tensors, but has {len(tensors):,}")
    more = " ..." if len(besides) > MOST_NAMES else ""
    note = f"left out, because they are not weights: {', '.join(besides[:MOST_NAMES])}{more}"
    return StateDict(tensors=tensors, notes=(note,) if besides else ())


def _is_weights_key(key: Any) -> bool:
    return not NOT_WEIGHTS.search(str(key))


def _is_weight(value: Any) -> bool:
    """More than one number, such as the best accuracy: a tensor of any kind, or what should have been one."""
    if isinstance(value, StoredTensor):
        return bool(value.info.shape)
    return isinstance(value, Special | Storage)


def _is_besides(key: Any, value: Any, looked: _Looked) -> bool:
    """Whether an entry among the tensors may be passed over: it holds no numbers of the model's."""
    if isinstance(value, StoredTensor):
        # The loss that was reached is often a tensor. A name with a dot is a module's.
        return not value.info.shape and "." not in str(key) and not _is_weights_key(key)
    return not _is_weights_key(key) or str(key).endswith("_extra_state") or looked.is_plain(value)


class _Looked:
    """What was looked at in one file, which may hold a thing many times, or within itself."""

    def __init__(self) -> None:
        self.dicts: set[int] = set()
        """Looked into for weights."""
        self._plain: set[int] = set()
        self._left = MAX_VISITS

    def is_plain(self, value: Any) -> bool:
        """Whether this is, or holds, nothing but texts, numbers and None. Raises `Malformed` where that takes long."""
        waiting, seen = [value], set()
        while waiting:
            each = waiting.pop()
            self._left -= 1
            if self._left < 0:
                raise Malformed("it repeats what lies beside the weights too often")
            if not isinstance(each, Mapping | list | tuple):
                if not isinstance(each, PLAIN_TYPES):
                    return False
            elif id(each) not in seen and id(each) not in self._plain:
                seen.add(id(each))
                waiting += each.values() if isinstance(each, Mapping) else each
        self._plain |= seen
        return True


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return "a dict of " + (", ".join(f"`{key}`" for key in list(loaded)[:6]) or "nothing")
    return f"a {type(loaded).__name__}"
