"""Whole modules in a pickle, as `torch.save(model)` writes them: their tensors by the names of a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Special

PARTS = ("_parameters", "_buffers", "_modules")
"""Attributes of every `torch.nn.Module`."""
MAX_MODULES = 200_000
"""Of one file, counted each time that they are reached: a module may be in several places."""
MAX_DEPTH = 200


def may_hold_weights(value: Any) -> bool:
    """Whether `Modules.as_mapping` finds something in it."""
    if isinstance(value, Inert) and not isinstance(value, Special):
        return is_module(value) or bool(value.entries or value.attributes)
    return isinstance(value, Mapping)


def is_module(value: Any) -> bool:
    return isinstance(value, Inert) and _of_module(value) is not None


class Modules:
    """Those of one file, which may be many times within each other."""

    def __init__(self) -> None:
        self._left = MAX_MODULES

    def as_mapping(self, value: Any) -> Mapping[Any, Any]:
        """What may have weights under its keys: a dict, a whole module, or the attributes of another object.

        Raises `Malformed` for modules within themselves.
        """
        if isinstance(value, Mapping):
            return value
        if not isinstance(value, Inert) or isinstance(value, Special):
            return {}
        if (attributes := _of_module(value)) is not None:
            return self._state_dict(attributes)
        return value.entries or value.attributes

    def _state_dict(self, module: Mapping[Any, Any]) -> dict[str, Any]:
        """As `Module.state_dict()` has it, without the extra state."""
        found: dict[str, Any] = {}
        waiting: list[tuple[str, int, Mapping[Any, Any]]] = [("", 0, module)]
        while waiting:
            prefix, depth, each = waiting.pop()
            self._left -= 1
            if depth > MAX_DEPTH or self._left < 0:
                raise Malformed(f"it has modules within themselves, or more than {MAX_MODULES:,}")
            found |= {f"{prefix}{name}": tensor for name, tensor in _tensors(each).items()}
            inner = [(name, _of_module(child)) for name, child in each["_modules"].items()]
            waiting += reversed([(f"{prefix}{name}.", depth + 1, child) for name, child in inner if child is not None])
        return found


def _tensors(module: Mapping[Any, Any]) -> dict[Any, Any]:
    left_out = module.get("_non_persistent_buffers_set")
    names = set(filter(_is_text, left_out)) if isinstance(left_out, list | tuple) else set()
    buffers = {name: buffer for name, buffer in module["_buffers"].items() if name not in names}
    return {name: tensor for name, tensor in (module["_parameters"] | buffers).items() if tensor is not None}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _of_module(value: Any) -> Mapping[Any, Any] | None:
    """The attributes of a module. Some are made by a call that is given them (torch.fx), or the module (compiled)."""
    if not isinstance(value, Inert):
        return None
    given = (each.attributes if isinstance(each, Inert) else each for each in value.arguments)
    return next((each for each in (value.attributes, *given) if _are_attributes(each)), None)


def _are_attributes(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(part), dict) for part in PARTS)
