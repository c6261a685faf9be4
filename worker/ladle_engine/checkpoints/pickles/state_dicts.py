"""Finds the weights in what a training script saved: a state dict, bare or inside a dict of other things."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.pickles.averages import (
    averages_in,
    is_average_key,
    names_its_tensors,
    swapped_key,
    with_the_models_names,
)
from ladle_engine.checkpoints.pickles.modules import Modules, is_module, may_hold_weights
from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Special, Storage, StoredTensor
from ladle_engine.checkpoints.safetensors_file import MAX_TENSORS, corrupt, refuse_name
from ladle_engine.checkpoints.tensor_kinds import MOST_NAME_CHARS, refuse_unsupported
from ladle_engine.errors import CheckpointError

NESTING_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Where training scripts keep the weights inside a checkpoint, the most telling name first."""

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


PLAIN_TYPES = (type(None), bool, int, float, str, bytes, Name)

EMA_NOTE = "the average (EMA)"
WHOLE_MODULE = "a whole module"
"""A note on one begins so."""

OPENNMT = ("model", "generator", "vocab")
"""Its checkpoints keep the last layer, `model.generator`, beside the other tensors of the model."""


@dataclass(frozen=True, kw_only=True)
class StateDict:
    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...] = ()
    """What was chosen between, for people."""


def find_state_dict(path: Path, loaded: Any, *, use_ema: bool = False) -> StateDict:
    """Raises `CheckpointError`: corrupt without a state dict or with several, unsupported for a kind of tensor.

    With `use_ema` the average that was made while training is taken; it must be there.
    """
    return _average(path, loaded) if use_ema else _model(path, loaded)


def _model(path: Path, loaded: Any) -> StateDict:
    if isinstance(loaded, Mapping) and (key := swapped_key(loaded)) is not None:
        return _noted(_model(path, loaded[key]), _told(key, {"state_dict": loaded["state_dict"]}, _Looked()))
    looked = _Looked()
    found = _find(path, loaded, MAX_DEPTH, looked)
    if found is None:
        raise corrupt(
            path,
            f"must hold a state dict of tensors, itself or under {', '.join(f'`{key}`' for key in NESTING_KEYS)}, but "
            f"holds {_describe(loaded)}. If it is not a checkpoint, leave it out with `exclude=`",
        )
    return found if any(EMA_NOTE in note for note in found.notes) else _noted(found, _deeper(loaded, looked))


def _deeper(loaded: Any, looked: _Looked) -> str | None:
    """Tells of an average in the states of callbacks and the like."""
    if not isinstance(loaded, Mapping):
        return None
    averages = (
        key for key, value in averages_in(loaded, looked.modules) if " / " in key and not looked.is_plain(value)
    )
    return next((f"{EMA_NOTE} under `{key}` is not used (`use_ema=` takes it)" for key in averages), None)


def _average(path: Path, loaded: Any) -> StateDict:
    if isinstance(loaded, Mapping) and swapped_key(loaded) is not None:
        return _model(path, loaded["state_dict"])
    found = _averages(path, loaded)
    if len(found) > 1:
        several = " and ".join(f"`{key}`" for key in list(found)[:3])
        raise corrupt(path, f"must hold one average (EMA) for `use_ema=`, but {several} each hold one")
    with suppress(CheckpointError):
        model = _model(path, loaded)
        for average in found.values():
            if (named := with_the_models_names(average.tensors, model.tensors)) is not None:
                return StateDict(tensors=named)
        if not found and (part := _part_of_average(model.tensors)):
            return StateDict(tensors=part)
    if not found:
        raise no_average(path)
    return next(iter(found.values()))


def _averages(path: Path, loaded: Any) -> dict[str, StateDict]:
    """By their keys: those that are nearest to the top."""
    found: dict[str, StateDict] = {}
    looked = _Looked()
    for key, value in averages_in(loaded, looked.modules):
        if found and key.count(" / ") > next(iter(found)).count(" / "):
            break
        if (average := _find(path, value, MAX_DEPTH, looked)) is not None:
            part = _part_of_average(average.tensors)
            found[key] = StateDict(tensors=part) if part else average
    return found


def _part_of_average(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Those of a module in the model that is its average, such as `ema_model.` of ema-pytorch."""
    first = {name.partition(".")[0] for name in tensors if "." in name}
    prefixes = [f"{each}." for each in first if is_average_key(each)]
    if len(prefixes) != 1:
        return {}
    return {name.removeprefix(prefixes[0]): each for name, each in tensors.items() if name.startswith(prefixes[0])}


def _average_within(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Tells of it where the model has the same tensors too."""
    if not (part := _part_of_average(tensors)):
        return None
    kept = set(part.values())
    others = {name.partition(".")[2] for name, tensor in tensors.items() if tensor not in kept}
    if others.isdisjoint(part):
        return None
    return f"some tensors are {EMA_NOTE} by their names, and are used like the others (`use_ema=` takes them alone)"


def no_average(path: Path) -> CheckpointError:
    return CheckpointError(
        "no-checkpoints",
        f"The checkpoint file `{path}` must hold an average that was made while training (EMA), because `use_ema=` "
        f"asks for it, but holds none under a name that says so. Leave out `use_ema=`, or this file with `exclude=`.",
    )


def _find(path: Path, value: Any, depth: int, looked: _Looked) -> StateDict | None:
    if depth == 0 or id(value) in looked.values or not may_hold_weights(value):
        return None
    looked.values.add(id(value))
    loaded = looked.modules.as_mapping(value)
    if is_module(value):
        return _noted(_flat(path, loaded, looked), _whole_module(value))
    inner = {key: each for key, each in loaded.items() if _is_weights_key(key) and may_hold_weights(each)}
    averages = {key: each for key, each in inner.items() if is_average_key(key) and not looked.is_plain(each)}
    for key in NESTING_KEYS:
        if key in inner and (found := _find(path, inner[key], depth - 1, looked)) is not None:
            found = _with_generator(path, loaded, found, looked)
            return _noted(found, _told(key, averages, looked), _also_there(key, inner, averages, loaded, looked))
    if any(_is_weight(each) for each in loaded.values()):
        return _flat(path, loaded, looked)
    others = {key: found for key, each in inner.items() if (found := _find(path, each, depth - 1, looked)) is not None}
    if models := _preferred([key for key in others if key not in averages], inner):
        return _noted(others[_the_only(path, models, averages)], _told(models[0], averages, looked))
    if others:
        ema = _the_only(path, list(others))
        return _noted(others[ema], f"only {EMA_NOTE} under `{ema}` is there, and is used")
    # A dict of single numbers alone, which a model may be.
    return _flat(path, loaded, looked) if any(isinstance(each, StoredTensor) for each in loaded.values()) else None


def _preferred(keys: list[Any], inner: Mapping[Any, Any]) -> list[Any]:
    """Those of dicts and modules before those of other objects."""
    return [key for key in keys if isinstance(inner[key], Mapping) or is_module(inner[key])] or keys


def _the_only(path: Path, keys: list[Any], averages: Iterable[Any] = ()) -> Any:
    if len(keys) > 1:
        several = " and ".join(f"`{key}`" for key in keys[:3])
        average = next((f", or take {EMA_NOTE} under `{key}` with `use_ema=`" for key in averages), "")
        raise corrupt(
            path, f"must hold one state dict, but {several} each hold one. Save the weights of one alone{average}"
        )
    return keys[0]


def _noted(found: StateDict, *notes: str | None) -> StateDict:
    return StateDict(tensors=found.tensors, notes=(*found.notes, *(note for note in notes if note)))


def _told(key: Any, averages: Mapping[Any, Any], looked: _Looked) -> str | None:
    if not averages:
        return None
    return f"the model under `{key}` is used, and {_not_used(averages, looked)}"


def _not_used(averages: Mapping[Any, Any], looked: _Looked) -> str:
    usable = [key for key, each in averages.items() if names_its_tensors(each, looked.modules)]
    if not usable:
        return f"{EMA_NOTE} under `{next(iter(averages))}` is not: its tensors have no names"
    if len(usable) == 1:
        return f"{EMA_NOTE} under `{usable[0]}` is not (`use_ema=` takes it)"
    several = " and ".join(f"`{each}`" for each in usable[:3])
    return f"{EMA_NOTE} is not, of which {several} each hold one (`use_ema=` takes it where there is one alone)"


def _also_there(
    key: Any, inner: Mapping[Any, Any], averages: Iterable[Any], loaded: Mapping[Any, Any], looked: _Looked
) -> str | None:
    used = {key, *averages, *(OPENNMT if _is_opennmt(loaded) else ())}
    others = [f"`{each}`" for each, value in inner.items() if each not in used and not looked.is_plain(value)]
    if not others:
        return None
    return f"only the weights under `{key}` are used, and those under {_listed(others)} are not"


def _is_opennmt(loaded: Mapping[Any, Any]) -> bool:
    return all(key in loaded for key in OPENNMT)


def _with_generator(path: Path, loaded: Mapping[Any, Any], found: StateDict, looked: _Looked) -> StateDict:
    if not _is_opennmt(loaded) or (generator := _find(path, loaded["generator"], 1, looked)) is None:
        return found
    named = {f"generator.{name}": tensor for name, tensor in generator.tensors.items()}
    return StateDict(tensors={**found.tensors, **named}, notes=found.notes)


def _whole_module(module: Inert) -> str:
    return (
        f"{WHOLE_MODULE} (`{module.name[:MOST_NAME_CHARS]}`) was saved. Its tensors are used, and no code of it runs. "
        f"Where the task cannot build the model, save `model.state_dict()`, and the model's config beside it"
    )


def _flat(path: Path, loaded: Mapping[Any, Any], looked: _Looked) -> StateDict:
    """The tensors of a state dict that may have an epoch or an optimiser among them."""
    tensors: dict[str, StoredTensor] = {}
    besides: list[str] = []
    averages: dict[Any, Any] = {}
    for key, value in loaded.items():
        if _is_besides(key, value, looked):
            besides.append(f"`{key}`")
            continue
        if may_hold_weights(value):
            if is_average_key(key) and not is_module(value):
                averages[key] = value
                continue
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
    found = StateDict(tensors=tensors)
    left_out = f"left out, because they are not weights: {_listed(besides)}" if besides else None
    beside = f"the tensors at the top are used, and {_not_used(averages, looked)}" if averages else None
    return _noted(found, left_out, beside, _average_within(tensors))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")


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
    if not _is_weights_key(key) or str(key).endswith("_extra_state"):
        return True
    is_object = isinstance(value, Inert) and not isinstance(value, Special) and not is_module(value)
    return is_object or looked.is_plain(value)


class _Looked:
    """What was looked at in one file, which may hold a thing many times, or within itself."""

    def __init__(self) -> None:
        self.modules = Modules()
        self.values: set[int] = set()
        """Looked into for weights."""
        self._plain: set[int] = set()
        self._left = MAX_VISITS

    def is_plain(self, value: Any) -> bool:
        """Whether this is, or holds, no tensor: texts, numbers, arrays in lists. Raises `Malformed` where that takes
        long."""
        waiting, seen = [value], set()
        while waiting:
            each = waiting.pop()
            self._left -= 1
            if self._left < 0:
                raise Malformed("it repeats what lies beside the weights too often")
            if not isinstance(each, Mapping | list | tuple | Inert):
                if not isinstance(each, PLAIN_TYPES):
                    return False
            elif isinstance(each, Special):
                if each is value or not each.name.startswith("numpy."):
                    return False
            elif id(each) not in seen and id(each) not in self._plain:
                seen.add(id(each))
                waiting += _parts_of(each)
        self._plain |= seen
        return True


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value.parts() if isinstance(value, Inert) else value


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return "a dict of " + (", ".join(f"`{key}`" for key in list(loaded)[:6]) or "nothing")
    if isinstance(loaded, Inert):
        return f"a `{loaded.name[:MOST_NAME_CHARS]}`"
    return f"a {type(loaded).__name__}"
