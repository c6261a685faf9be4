"""Groups: which tensors share one coefficient per checkpoint (paper, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ladle_engine.binding import Binding


@dataclass(frozen=True, kw_only=True)
class Groups:
    """G groups over the floating tensors, buffers included: a statistic goes with its layer."""

    names: tuple[str, ...]
    of: dict[str, int]
    """Tensor name -> group index."""

    def __len__(self) -> int:
        return len(self.names)


def whole_model(binding: Binding) -> Groups:
    """One group."""
    return Groups(names=("model",), of=dict.fromkeys(binding.floating, 0))


def layers(binding: Binding) -> Groups:
    """One group a layer: the numbered block a tensor stands in (`encoder.layer.3`), else its module (`conv1`)."""
    return _group(binding, layer_of)


def tensors(binding: Binding) -> Groups:
    """One group a parameter; a statistic goes with a parameter of its module, if that has one."""

    def key(name: str) -> str:
        if name in binding.parameters:
            return name
        module = _module_of(name)
        siblings = [other for other in binding.parameters if _module_of(other) == module]
        return siblings[0] if siblings else name

    return _group(binding, key)


GROUPINGS: dict[str, Callable[[Binding], Groups]] = {"model": whole_model, "layers": layers, "tensors": tensors}


def layer_of(name: str) -> str:
    """`vit.encoder.layer.3.mlp.fc1.weight` -> `vit.encoder.layer.3`; `conv1.weight` -> `conv1`."""
    parts = name.split(".")
    for position, part in enumerate(parts[:-1]):
        if part.isdigit():
            return ".".join(parts[: position + 1])
    return _module_of(name)


def _module_of(name: str) -> str:
    module, _, _ = name.rpartition(".")
    return module or name


def _group(binding: Binding, key: Callable[[str], str]) -> Groups:
    names: list[str] = _unique([key(name) for name in binding.floating])
    index = {group: position for position, group in enumerate(names)}
    return Groups(names=tuple(names), of={name: index[key(name)] for name in binding.floating})


def _unique(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(keys))
